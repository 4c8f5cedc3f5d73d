"""The reply log at five million replies: looking up, appending, memory, bytes; beside JSON lines read into a dict."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measuring import quick, seconds, show
from resources.reply_log import ReplyLog

KEYS = 10_000
APPENDED = 20_000
AT_ONCE = 250_000
STUDY, ENGINE = "smollm2_demo", "SmolLM2-135M-Instruct"
Measured = dict[str, float]


def main() -> None:
    replies = 500_000 if quick() else 5_000_000
    few = replies // 10
    # Each part in a process of its own, since a child's peak begins at what its parent occupied.
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        file, lines = Path(folder) / "replies.sqlite", Path(folder) / "replies.jsonl"
        filled = in_a_process(write_log, file, replies)
        warm, cold = (in_a_process(how, file, replies) for how in (look_up_again, look_up_cold))
        in_a_process(write_lines, lines, few)
        reference = in_a_process(read_lines, lines, few)
        size = file.stat().st_size
    show("replies", replies)
    show("fill_seconds", filled["fill_seconds"])
    show("file_bytes_per_reply", size / replies)
    show("spent_microseconds", filled["spent_microseconds"])
    show("look_up_10000_keys_seconds", warm["seconds"])
    show("look_up_10000_keys_not_in_the_page_cache_seconds", cold["seconds"])
    show("look_up_peak_memory_mb", max(warm["peak_mb"], cold["peak_mb"]))
    for kind in ("median", "mean"):
        empty, full = filled[f"empty_{kind}"], filled[f"full_{kind}"]
        show(f"append_to_an_empty_log_{kind}_microseconds", empty)
        show(f"append_to_the_full_log_{kind}_microseconds", full)
        show(f"append_full_over_empty_{kind}_ratio", full / empty)
    show("json_lines_replies", few)
    show("json_lines_look_up_10000_keys_seconds", reference["seconds"])
    show("json_lines_peak_memory_mb", reference["peak_mb"])
    extrapolated = reference["seconds"] * replies / few
    show("json_lines_look_up_10000_keys_seconds_extrapolated", extrapolated)
    show("json_lines_over_log_look_up_ratio", extrapolated / warm["seconds"])


def key_of(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()[:16]


def reply(number: int) -> tuple[bytes, str, int, int, int]:
    """What judging one example leaves behind."""
    return key_of(number), json.dumps({"log_probabilities": [-1 / (1 + number), -0.1 * number]}), 560, 500, 0


def append_microseconds(log: ReplyLog, start: int, name: str) -> Measured:
    """Of the call that an engine makes for each reply that arrives; the mean holds the checkpoints in between."""
    made = [reply(number) for number in range(start, start + APPENDED)]
    times = [seconds(partial(log.append, STUDY, ENGINE, *each)) * 1e6 for each in made]
    return {f"{name}_mean": float(np.mean(times)), f"{name}_median": float(np.median(times))}


def write_log(file: Path, count: int) -> Measured:
    def fill() -> None:
        for first in range(APPENDED, count - APPENDED, AT_ONCE):
            last = min(first + AT_ONCE, count - APPENDED)
            log.append_many(STUDY, ENGINE, (reply(number) for number in range(first, last)))

    with ReplyLog(file) as log:
        measured = append_microseconds(log, 0, "empty")
        measured["fill_seconds"] = seconds(fill)
        measured |= append_microseconds(log, count - APPENDED, "full")
        measured["spent_microseconds"] = min(seconds(lambda: log.spent(STUDY)) for _ in range(5)) * 1e6
        assert log.spent(STUDY)[ENGINE].calls == count
    return measured


def look_up(file: Path, count: int) -> None:
    numbers = {key_of(number): number for number in drawn(count)}
    with ReplyLog(file) as log:
        found = log.look_up(list(numbers))
    assert all(found[key].reply == reply(number)[1] for key, number in numbers.items())


def look_up_again(file: Path, count: int) -> Measured:
    """With the file's pages in the system's memory."""
    look_up(file, count)
    return {"seconds": seconds(lambda: look_up(file, count)), "peak_mb": peak_mb()}


def look_up_cold(file: Path, count: int) -> Measured:
    """With the file on the disk only."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return {"seconds": seconds(lambda: look_up(file, count)), "peak_mb": peak_mb()}


def write_lines(file: Path, count: int) -> Measured:
    with file.open("w") as opened:
        for number in range(count):
            key, text, prompt, cached, completion = reply(number)
            row = {"key": key.hex(), "study": STUDY, "engine": ENGINE, "reply": text, "prompt_tokens": prompt}
            opened.write(json.dumps(row | {"cached_tokens": cached, "completion_tokens": completion}) + "\n")
    return {}


def read_lines(file: Path, count: int) -> Measured:
    """The reference: everything in memory, then the same look-ups."""

    def read() -> None:
        with file.open() as opened:
            rows = {bytes.fromhex(row["key"]): row for row in map(json.loads, opened)}
        assert all(rows[key_of(number)]["reply"] == reply(number)[1] for number in drawn(count))

    return {"seconds": seconds(read), "peak_mb": peak_mb()}


def drawn(count: int) -> list[int]:
    return np.random.default_rng(0).choice(count, KEYS, replace=False).tolist()


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process(part: Callable[[Path, int], Measured], file: Path, count: int) -> Measured:
    command = [sys.executable, "-m", "benchmarks.reply_log", "--part", part.__name__, str(file), str(count)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    if "--part" in sys.argv:
        _, _, name, path, size = sys.argv
        print(json.dumps(globals()[name](Path(path), int(size))))
    else:
        main()
