"""One story of a real daemon on a study of four layers: what it computes after each change, and nothing else.

The tests are its chapters, told in the order in which they stand.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pytest
import torch
from safetensors.torch import load_file, save

from interp_assets.study import PROJECT
from tests.changed_study import changed
from tests.daemon import Daemon, dagster_home, replaced
from tests.tiny import make_corpus, make_embedder, make_model, make_sae, write_study

LAYERS = ["layers.0", "layers.1", "layers.2", "layers.3"]
SCORES = ["scores/embedding", "scores/detection"]
CHAIN = ["activation_cache", "latent_statistics", "examples", "explanations", *SCORES]


def of(assets: Iterable[str], layers: Iterable[str] = LAYERS) -> list[str]:
    return [f"{asset}[{layer}]" for asset in assets for layer in layers]


def pairs(*layers: str) -> list[str]:
    """Their matchings, and what explanations of matched latents have in common, where one of two layers is named."""
    return [*of_pairs("layer_matching", *layers), *of_pairs("semantic_overlap", *layers)]


def matchings(*layers: str) -> list[str]:
    """Made anew where an SAE is: since its decoders and what is said of its latents are the same, nothing behind them is."""
    return of_pairs("layer_matching", *layers)


def of_pairs(asset: str, *layers: str) -> list[str]:
    known = [*LAYERS, "layers.4"] if "layers.4" in layers else LAYERS
    return [f"{asset}[{a}__{b}]" for a, b in pairwise(known) if {a, b} & set(layers)]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon on three studies: `tiny`, one that only the schedule looks at, and a broken one."""
    root = tmp_path_factory.mktemp("daemon")
    make_model(root / "model", layers=5)
    make_embedder(root / "embedder")
    make_corpus(root / "corpus.parquet")
    for layer in (*LAYERS, "layers.4"):
        make_sae(root / "saes", layer)
    (root / "studies").mkdir()
    settings = {
        "subject_model": {"path": "./model", "dtype": "float32", "device": "cpu", "batch_tokens": 64},
        "saes": [{"path": "saes", "hookpoints": LAYERS}],
        "proof_of_load": {"tokens": 1024, "compare_layers": False, "max_fvu": 0.95},
        "alignment": {},
        "examples": {"window": 16, "min_windows": 8, "latents": 6, "explain": {"n": 10}, "test": {"activating": 10, "non_activating": 10}},
        "explainers": {"quotes": {"kind": "extractive"}},
        "scorers": {
            "embedding": {"model": "./embedder", "device": "cpu"},
            "detection": {"engine": "oracle", "activating": 10, "non_activating": 10},
        },
        "automation": {"watch_seconds": 1, "schedule": None},
    }  # fmt: skip
    file = write_study(root / "studies" / "tiny.yaml", **settings)
    changed(
        file, {"name": "nightly", "automation.schedule": "* * * * *", "automation.watch_seconds": 3600}, "nightly.yaml"
    )
    changed(file, {"name": "second", "automation.enabled": False, "automation.watch_seconds": 5}, "second.yaml")
    (root / "studies" / "broken.yaml").write_text("subject_model: 3\n")
    dagster_home(root)
    daemon = Daemon(root)
    daemon.start()
    yield daemon
    daemon.stop()


def change(daemon: Daemon, **settings: object) -> None:
    """Edit the study's file: `a__b=1` sets a.b."""
    file = daemon.root / "studies" / "tiny.yaml"
    changed(file, {key.replace("__", "."): value for key, value in settings.items()}, file.name)


def weights(daemon: Daemon, layer: str) -> Path:
    return daemon.root / "saes" / layer / "sae.safetensors"


def new_sae(daemon: Daemon, layer: str, seed: int) -> bytes:
    """The SAE of a layer with other activations and the same latents."""
    tensors = load_file(weights(daemon, layer))
    tensors["encoder.bias"] = torch.full_like(tensors["encoder.bias"], seed / 10)
    return save(tensors)


def new_weights(daemon: Daemon, layer: str, seed: int) -> None:
    replaced(weights(daemon, layer), new_sae(daemon, layer, seed))


def happens(daemon: Daemon, made: list[str], runs: list[str] | None = None) -> None:
    """Until quiet comes back exactly this is made, and by exactly these runs: one each where they are not named.

    The watcher makes `sae_weights`, in no run.
    """
    daemon.settled()
    runs = [label for label in made if not label.startswith("sae_weights")] if runs is None else runs
    found = daemon.made(), daemon.runs()
    daemon.mark()
    assert found == (sorted(made), sorted(runs))


def says(daemon: Daemon, sensor: str, what: str) -> None:
    """A tick that has just begun says nothing yet."""
    daemon.wait_until(lambda: what in daemon.said().get(sensor, ""), f"{sensor}: {what}")


def test_with_the_daemon_alone_everything_comes_into_being_once(daemon: Daemon) -> None:
    happens(daemon, [*of(["sae_weights", *CHAIN]), *pairs(*LAYERS), "corpus", "score_report"])
    happens(daemon, [])


def test_one_new_sae(daemon: Daemon) -> None:
    new_weights(daemon, "layers.1", 1)
    happens(daemon, [*of(["sae_weights", *CHAIN], ["layers.1"]), *matchings("layers.1"), "score_report"])


def test_the_same_sae_again(daemon: Daemon) -> None:
    content = weights(daemon, "layers.1").read_bytes()
    stamp = weights(daemon, "layers.1").stat().st_mtime_ns
    replaced(weights(daemon, "layers.1"), content)
    assert weights(daemon, "layers.1").stat().st_mtime_ns != stamp
    happens(daemon, [])


def test_a_setting_there_and_back_again_and_another(daemon: Daemon) -> None:
    change(daemon, scorers__detection__activating=9)
    happens(daemon, [*of(["scores/detection"]), "score_report"])
    change(daemon, scorers__detection__activating=10)
    happens(daemon, [], runs=[*of(["scores/detection"]), "score_report"])
    change(daemon, explainers__more={"kind": "extractive", "words": 3})
    happens(daemon, [*of(["explanations", *SCORES]), *of_pairs("semantic_overlap", *LAYERS), "score_report"])


def stop_in_the_middle(daemon: Daemon, layer: str) -> None:
    """Change an SAE, and stop the run that follows in the middle of its pass over the corpus, which is soon over."""
    cache = daemon.root / "store" / "activation_cache" / layer
    for seed in range(1, 9):
        new_weights(daemon, layer, seed)
        run = daemon.started_run("activation_cache", layer)

        def in_it_or_past_it(run: dg.DagsterRun = run) -> object:
            record = daemon.instance.get_run_by_id(run.run_id)
            return list(cache.rglob(".spill.part")) or (record is not None and record.is_finished)

        if daemon.wait_until(in_it_or_past_it, "the pass over the corpus", every=0.001) is not True:
            daemon.send(run, signal.SIGSTOP)
            return
        daemon.settled()
        daemon.mark()
    raise AssertionError("the pass over the corpus was missed eight times")


def test_two_changes_in_the_middle_of_a_run_of_the_same_layer(daemon: Daemon) -> None:
    stop_in_the_middle(daemon, "layers.2")
    run = daemon.started_run("activation_cache", "layers.2")
    new_weights(daemon, "layers.2", 20)
    change(daemon, scorers__detection__activating=8)
    daemon.wait_until(lambda: len(daemon.runs()) >= 4, "runs of the other layers")
    daemon.send(run, signal.SIGCONT)
    others = [layer for layer in LAYERS if layer != "layers.2"]
    made = [*of(CHAIN, ["layers.2"]), *matchings("layers.2"), *of(["scores/detection"], others), "score_report"]
    stopped = "activation_cache[layers.2] FAILURE"
    happens(daemon, [*made, "sae_weights[layers.2]", "sae_weights[layers.2]"], [*made, stopped])


def test_a_half_copied_sae_is_not_taken_up(daemon: Daemon) -> None:
    content = new_sae(daemon, "layers.0", 1)
    weights(daemon, "layers.0").write_bytes(content[: len(content) // 2])
    said = "layers.0: sae.safetensors is not as long as its header says"
    daemon.wait_until(lambda: said in daemon.said()["tiny_files"], "a remark on the half file")
    daemon.wait_until(lambda: all(said in (tick.skip_reason or "") for tick in daemon.ticks("tiny_files", 4)), said)
    assert (daemon.made(), daemon.runs()) == ([], [])
    with weights(daemon, "layers.0").open("ab") as file:
        file.write(content[len(content) // 2 :])
    happens(daemon, [*of(["sae_weights", *CHAIN], ["layers.0"]), *matchings("layers.0"), "score_report"])


def test_edits_of_the_study_under_the_daemon(daemon: Daemon) -> None:
    change(daemon, subject_model__batch_tokens=256)
    happens(daemon, [])
    second = daemon.root / "studies" / "second.yaml"
    says(daemon, "second_automation", "automation.enabled is false")
    second.write_text("corpus: 3\n")
    change(daemon, **{"saes.0.hookpoints": [*LAYERS, "layers.4"]})
    said = "new layers: layers.4; reload the code location"
    for sensor in ("tiny_files", "tiny_automation"):
        daemon.wait_until(lambda: all(said in (t.skip_reason or "") for t in daemon.ticks(sensor, 4)), said)  # noqa: B023
    assert (daemon.made(), daemon.runs()) == ([], [])
    says(daemon, "second_automation", "second.yaml: subject_model: missing")
    daemon.stop()
    daemon.start()
    happens(daemon, [*of(["sae_weights", *CHAIN], ["layers.4"]), *pairs("layers.4"), "score_report"])


def test_a_bad_sae_is_tried_once_and_its_successor_picked_up(daemon: Daemon) -> None:
    tensors = load_file(weights(daemon, "layers.0"))
    good = save(tensors)
    tensors["W_dec"] = torch.randn(tensors["W_dec"].shape, generator=torch.Generator().manual_seed(0)) * 3
    replaced(weights(daemon, "layers.0"), save(tensors))
    refused = "activation_cache[layers.0] FAILURE"
    happens(daemon, ["sae_weights[layers.0]", "score_report"], [refused, "score_report"])
    replaced(weights(daemon, "layers.0"), good)
    happens(daemon, [], ["score_report"])


def test_an_interp_run_beside_the_daemon(daemon: Daemon) -> None:
    """Whoever is first makes a partition; the other waits, says for what, and finds it made. No call is made twice."""
    change(daemon, scorers__detection__activating=7)
    command = [sys.executable, "-m", "interp_assets.cli", "run", str(daemon.root / "studies" / "tiny.yaml")]
    environment = os.environ | {"DAGSTER_HOME": str(daemon.root / "home"), "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environment, cwd=daemon.root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    daemon.settled()
    assert daemon.made() == sorted([*of(["scores/detection"], [*LAYERS, "layers.4"]), "score_report"])
    daemon.mark()
    with sqlite3.connect(daemon.root / "store" / "replies.sqlite") as log:
        (calls,) = log.execute("select sum(calls) from totals").fetchone()
        (replies,) = log.execute("select count(*) from replies").fetchone()
    assert calls == replies > 0


def test_a_killed_worker(daemon: Daemon) -> None:
    """Tried again; after three times at one fingerprint it is left to the schedule."""
    new_weights(daemon, "layers.1", 2)
    killed = "activation_cache[layers.1] FAILURE"
    for _ in range(2):
        run = daemon.started_run("activation_cache", "layers.1")
        daemon.send(run, signal.SIGKILL)
        daemon.wait_for_end(run)
    happens(daemon, [*of(["sae_weights", *CHAIN], ["layers.1"]), *matchings("layers.1"), "score_report"],
            [*of(CHAIN, ["layers.1"]), *matchings("layers.1"), "score_report", killed, killed])  # fmt: skip

    new_weights(daemon, "layers.1", 3)
    for _ in range(3):
        run = daemon.started_run("activation_cache", "layers.1")
        daemon.send(run, signal.SIGKILL)
        daemon.wait_for_end(run)
    happens(daemon, ["sae_weights[layers.1]"], [killed] * 3)
    says(daemon, "tiny_automation", "given up until the schedule or a change: activation_cache[layers.1]")


def test_the_schedule_alone(daemon: Daemon) -> None:
    """The study `nightly` shares files and store with `tiny`, and its sensors look once an hour: its schedule asks for
    the one partition that it could know to be due, once."""
    runs = [run for run in daemon.instance.get_runs() if run.asset_selection and "nightly" in str(run.asset_selection)]
    assert [(sorted(run.asset_selection or ()), run.status) for run in runs] == [
        ([dg.AssetKey(["nightly", "corpus"])], dg.DagsterRunStatus.SUCCESS)
    ]
    assert runs[0].tags["dagster/schedule_name"] == "nightly_check"
