"""Corpora in the files that people have: read as they are, whatever the format, packing and encoding, or refused by name."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.feather
import pytest

from interp_assets.corpus import tables, texts
from interp_assets.corpus.contexts import documents
from interp_assets.corpus.files import corpus_files, why_not_read
from interp_assets.settings import Corpus
from resources.errors import UnusableInput

TEXTS = [
    'He said: "no, thanks", and left.\nIt rained; a tab\tstood there.',
    "日本語の文 🌊 café, Größe",
    "NA",
    "a line\u2028that\u0085does not end, 12",
    " white space around ",
    "7",
]


def zst(content: bytes) -> bytes:
    return pa.compress(content, "zstd", asbytes=True)


PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zst, ".bz2": bz2.compress}


def read(path: Path, column: str = "text") -> list[str]:
    return list(documents(Corpus(path=str(path), column=column), path))


def as_csv(delimiter: str) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows([["id", "text"], *([i, text] for i, text in enumerate(TEXTS))])
    return out.getvalue()


def rows() -> list[str]:
    return [json.dumps({"text": text, "id": i}, ensure_ascii=i % 2 == 0) for i, text in enumerate(TEXTS)]


CONTENTS: dict[str, str] = {
    "c.jsonl": "\n".join(rows()),
    "c.NDJSON": "\r\n".join(rows()) + "\r\n\r\n",
    "lines.json": "\n".join(rows()) + "\n",
    "list.json": json.dumps([json.loads(row) for row in rows()], indent=2, ensure_ascii=False),
    "short.json": " [" + ",".join(rows()) + "] \n",
    "c.csv": as_csv(","),
    "c.tsv": as_csv("\t"),
    "c.txt": "\n\n".join(TEXTS) + "\n",
}


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", CONTENTS)
def test_texts_are_what_was_written(tmp_path: Path, name: str, encoding: str, packing: str) -> None:
    file = tmp_path / (name + packing)
    file.write_bytes(PACKED[packing](CONTENTS[name].encode(encoding)))
    assert why_not_read(file) is None
    assert read(file) == TEXTS


def write_arrow(file: Path, stream: bool) -> None:
    table = pa.table({"text": TEXTS, "id": range(len(TEXTS))})
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(file), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


TABLES: dict[str, Callable[[Path], object]] = {
    "c.parquet": lambda file: pl.DataFrame({"text": TEXTS}).write_parquet(file),
    "C.PARQUET": lambda file: pl.DataFrame({"text": pl.Series(TEXTS, dtype=pl.Categorical)}).write_parquet(file),
    "c.feather": lambda file: pyarrow.feather.write_feather(pa.table({"text": TEXTS}), str(file), "zstd"),
    "polars.arrow": lambda file: pl.DataFrame({"text": TEXTS}).write_ipc(file),
    "file.arrow": lambda file: write_arrow(file, stream=False),
    "stream.arrow": lambda file: write_arrow(file, stream=True),  # as `datasets` writes it
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_too(tmp_path: Path, name: str) -> None:
    TABLES[name](tmp_path / name)
    assert why_not_read(tmp_path / name) is None
    assert read(tmp_path / name) == TEXTS
    with pytest.raises(UnusableInput, match="no column 'body'; there are: text"):
        read(tmp_path / name, "body")


def test_what_was_read_before_was_not_the_text(tmp_path: Path) -> None:
    """A control: how a text file used to be opened makes another text of these."""
    for content in ("café".encode("latin-1"), b"\xef\xbb\xbfthe sea", "the sea".encode("utf-16")):
        (tmp_path / "c.txt").write_bytes(content)
        with (tmp_path / "c.txt").open(encoding="utf-8", errors="replace") as lines:
            assert next(iter(lines)) not in ("café", "the sea")


# huggingface/datasets #8241 and wbolster/jsonlines #68 report JSONL that begins with a byte order mark.
def test_a_mark_in_the_midst_of_files_put_together_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes("one\n\n".encode("utf-8-sig") + "two\n".encode("utf-8-sig"))
    assert read(tmp_path / "c.txt") == ["one", "two"]
    (tmp_path / "c.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\n\xef\xbb\xbf{"text": "two"}\n')
    assert read(tmp_path / "c.jsonl") == ["one", "two"]


SOUND = b'{"text": "ka"}\n'
# daaain/claude-code-log #139
HALF = "'text' holds half of a surrogate pair, which is no character; mend the text or leave it out"
NOT_UTF8 = "is not UTF-8; write the file anew, such as by: iconv -f WINDOWS-1252 -t UTF-8"
REFUSED: list[tuple[str, bytes, str]] = [
    ("c.txt", "one\n\ntwo\n\ncaf\xe9\n".encode("latin-1"), f"line 5 {NOT_UTF8} c.txt"),
    ("c.jsonl", SOUND * 9000 + '{"text": "caf\xe9"}'.encode("latin-1"), f"line 9001 {NOT_UTF8} c.jsonl"),
    ("c.jsonl", SOUND * 2 + rb'{"text": "cut \ud83d here"}' + b"\n" + SOUND, f"line 3: {HALF}"),
    ("c.json", b"[" + SOUND + b"," + rb'{"text": "\udc00"}' + b"]", f"row 2: {HALF}"),
    ("c.jsonl", SOUND + b'{"text": "ka", "n": ' + b"[" * 200_000, "line 2 is not JSON ("),
    ("c.jsonl", SOUND + b'{"text": "ka", "n": ' + b"9" * 5000 + b"}", "line 2 is not JSON ("),
    ("c.jsonl", b"[" + SOUND + b"]", "line 1 is not JSON ("),
    ("c.json", b"[" + SOUND + b", 7]", "row 2 is not an object with a text under 'text'"),
    ("c.json", b"[" + SOUND + b", {", "row 2 is not JSON ("),
    ("c.json", b'{"data": [\n' + SOUND + b"]}", "line 1 is not JSON ("),
    ("c.json", "[".encode("utf-16") + b"\x00", "not a readable JSON file ("),
    ("c.csv", b"id,body\n1,ka\n", "no column 'text'; there are: id, body"),
    ("c.csv", "id,text\n1,ka\n2,caf\xe9\n".encode("latin-1"), "not a readable CSV file (In CSV column #1: Row #3: "),
    ("c.tsv", b"id\ttext\n1\tka\tlo\n", "not a readable TSV file (CSV parse error: Row #2: "),
    ("c.txt.gz", b"the sea", "not a readable text file ("),
    ("c.jsonl.gz", gzip.compress(SOUND * 50_000)[:-40], "not a readable JSONL file ("),
    ("c.arrow", b"ARROW1 and no more", "not a readable Arrow file ("),
    ("c.feather", b"", "not a readable Arrow file ("),
]


@pytest.mark.parametrize(("name", "content", "said"), REFUSED)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnusableInput, match=re.escape(said)) as caught:
        read(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_table_with_a_text_that_is_no_utf8(tmp_path: Path, suffix: str) -> None:
    data = [b"ka"] * 2000 + [b"caf\xe9"]
    values = pa.array(data, pa.binary()).view(pa.string())
    table = pa.table({"text": values})
    file = tmp_path / f"c{suffix}"
    if suffix == ".parquet":
        pa.parquet.write_table(table, file)
    else:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(UnusableInput, match="row 2001 is not UTF-8"):
        read(file)


@pytest.mark.parametrize("name", ["c.md", "c.zip", "c.parquet.gz", "c.gz", "c.xlsx", "c"])
def test_other_kinds_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    why = why_not_read(tmp_path / name)
    found = "a file without suffix" if name == "c" else f"a {name[1:]} file"
    assert why is not None and why.startswith(f"is {found}; what is read: .parquet, .arrow, .feather, .jsonl")
    with pytest.raises(UnusableInput, match="not a file of a kind that is read"):
        read(tmp_path / name)


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for number, text in ((2, "second"), (10, "tenth"), (1, "first")):
        (tmp_path / f"c-{number:05d}.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": text}).encode()))
    for name in ("README.md", "dataset_info.json", ".c.jsonl.part", "_SUCCESS"):
        (tmp_path / name).write_text("{}")
    assert why_not_read(tmp_path) is None
    assert read(tmp_path) == ["first", "second", "tenth"]
    (tmp_path / "more.txt").write_text("more")
    assert "files of several kinds, .jsonl.gz, .txt;" in str(why_not_read(tmp_path))


def test_a_folder_without_shards_says_what_is_below(tmp_path: Path) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "c.txt").write_text("the sea")
    assert "(folders below it are not looked into; there are: train)" in str(why_not_read(tmp_path / "data"))
    assert corpus_files(tmp_path / "nowhere") == []


def test_a_file_that_unpacks_to_more_than_memory_holds_is_read_only_as_far_as_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "LONGEST", 1 << 16)
    file = tmp_path / "c.jsonl.gz"
    file.write_bytes(gzip.compress(SOUND * 10 + b'{"text": "' + b"a" * (1 << 24), compresslevel=1))
    found = documents(Corpus(path=str(file)), file)
    assert [next(found) for _ in range(10)] == ["ka"] * 10
    with pytest.raises(UnusableInput, match="line 11 is longer than 65,536 characters"):
        next(found)
    file = tmp_path / "c.json.gz"
    file.write_bytes(gzip.compress(b"[" + SOUND + b',{"text": "' + b"a" * (1 << 24), compresslevel=1))
    with pytest.raises(UnusableInput, match="row 2 is not JSON"):
        read(file)
    file = tmp_path / "c.txt.gz"  # one line without end is read as several documents
    file.write_bytes(gzip.compress(b"a" * (1 << 20), compresslevel=1))
    assert set(map(len, read(file))) == {1 << 16}


def test_a_stream_ends_where_enough_was_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a file is neither unpacked nor checked."""
    file = tmp_path / "c.jsonl.gz"
    noise = json.dumps({"text": os.urandom(3000).hex()}).encode() + b"\n"
    file.write_bytes(gzip.compress(SOUND * 10 + noise * 2000 + b"no JSON", compresslevel=1))
    found = documents(Corpus(path=str(file)), file)
    assert [next(found) for _ in range(10)] == ["ka"] * 10
    with pytest.raises(UnusableInput, match="line 2011 is not JSON"):  # control
        list(found)


def test_other_columns_of_a_csv_file_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CSV_BLOCK", 1 << 10)
    (tmp_path / "c.csv").write_text("id,text\n" + "1,ka\n" * 1000 + "one and a half,lo\n")
    assert read(tmp_path / "c.csv")[-1] == "lo"
