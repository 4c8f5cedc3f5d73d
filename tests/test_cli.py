"""The `interp` command as a user meets it: what it prints, its exit codes, and what it says of mistakes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from tests.changed_study import changed
from tests.commands import End, interp, settle_in
from tests.refusals import GOOD
from tests.tiny import WORDS, make_embedder

LAYERS = (GOOD, "layers.0")
ASSETS = (
    "sae_weights, corpus, activation_cache, latent_statistics, examples, explanations, scores/embedding, score_report"
)


@pytest.fixture(scope="module")
def root(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder with a study of two layers, explained by quoting and scored by an embedder."""
    root = tmp_path_factory.mktemp("cli") / "world"
    file = settle_in(root, two_layers)
    make_embedder(root / "embedder")
    scorers = {"embedding": {"model": "./embedder", "activating": 5, "non_activating": 5}}
    changed(file, {"scorers": scorers}, "tiny.yaml")
    (root / "studies" / "broken.yaml").write_text("corpus: 5\n")
    return root


@pytest.fixture(scope="module")
def one_layer(root: Path) -> End:
    """The first command: one layer, up to the examples."""
    return interp(root, "run", "tiny", "--layers", GOOD, "--until", "examples")


@pytest.fixture(scope="module")
def complete(root: Path, one_layer: End) -> End:
    """The second: all that is missing of that layer."""
    return interp(root, "run", "studies/tiny.yaml", "--layers", GOOD)


def labels(text: str, state: str) -> list[str]:
    """What stands in a column of states, such as `made     corpus in 0.3 s`."""
    return re.findall(rf"^{state} +(\S+)", text, flags=re.MULTILINE)


def test_run_of_some_layers_up_to_an_asset(root: Path, one_layer: End) -> None:
    assert one_layer.returncode == 0, one_layer.stderr
    assert one_layer.stderr == ""
    made = ["sae_weights", "corpus", "activation_cache", "examples"]
    assert labels(one_layer.stdout, "made") == [name if name == "corpus" else f"{name}[{GOOD}]" for name in made]
    assert "tiny: 4 made; " in one_layer.stdout
    assert one_layer.stdout.startswith(f"tiny: {root / 'studies' / 'tiny.yaml'}\nload     Dagster, torch, transformers")


def test_run_makes_the_rest(root: Path, complete: End) -> None:
    assert complete.returncode == 0, complete.stderr
    assert complete.stderr == ""
    assert "tiny: 4 made, 4 fresh; " in complete.stdout
    (page,) = re.findall(r"^report:  (\S+)$", complete.stdout, flags=re.MULTILINE)
    assert "<html" in Path(page).read_text()
    command = re.findall(r"^tables:  interp (.+)$", complete.stdout, flags=re.MULTILINE)[0].split()
    assert interp(root, *command).returncode == 0


def test_the_second_run_makes_nothing_at_once(root: Path, complete: End) -> None:
    """A process from scratch: nothing is due, so neither torch nor Dagster is loaded."""
    code = "import sys; from interp_assets.cli import main; assert main(sys.argv[1:]) == 0; "
    code += "print([name for name in ('torch', 'dagster', 'transformers') if name in sys.modules])"
    before = time.monotonic()
    arguments = [sys.executable, "-c", code, "run", str(root / "studies" / "tiny.yaml"), "--layers", GOOD]
    again = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert time.monotonic() - before < 10
    assert re.search(r"^tiny: 8 fresh; \d s$", again.stdout, flags=re.MULTILINE)
    assert again.stdout.endswith("[]\n")
    assert labels(again.stdout, "made") == []


def test_status_tells_what_is_stale_and_why(root: Path, complete: End, tmp_path: Path) -> None:
    fresh = interp(root, "status", "tiny")
    assert (fresh.returncode, fresh.stderr) == (0, "")
    assert len(labels(fresh.stdout, "fresh")) == 7
    assert re.search(
        r"^missing +examples\[layers.0\] +activation_cache\[layers.0\] is missing$", fresh.stdout, re.MULTILINE
    )
    assert fresh.stdout.endswith("\ntiny: 7 fresh, 1 stale, 6 missing\n")

    world = shutil.copytree(root, tmp_path / "world")
    changed(world / "studies" / "tiny.yaml", {"examples.window": 8}, "tiny.yaml")
    stale = interp(world, "status", "tiny").stdout
    assert re.search(rf"^stale +examples\[{GOOD}\] +examples.window: 16 -> 8$", stale, flags=re.MULTILINE)
    behind = rf"^stale +explanations\[{GOOD}\] +examples\[{GOOD}\] is to be made anew$"
    assert re.search(behind, stale, flags=re.MULTILINE)
    before = ("sae_weights", "activation_cache", "latent_statistics")
    assert set(labels(stale, "fresh")) == {"corpus", *(f"{asset}[{GOOD}]" for asset in before)}
    settings = world / "saes" / GOOD / "cfg.json"
    settings.write_text(settings.read_text() + "\n")
    stale = interp(world, "status", "tiny").stdout
    assert re.search(rf"^stale +sae_weights\[{GOOD}\] +sae file changed$", stale, flags=re.MULTILINE)
    assert labels(stale, "fresh") == ["corpus"]


def test_a_failure_is_told_and_the_other_layer_goes_on(root: Path, complete: End, tmp_path: Path) -> None:
    """Exit code 1; the failed layer stays failed until its file changes, what lies behind it is blocked."""
    world = shutil.copytree(root, tmp_path / "world")
    weights = world / "saes" / "layers.0" / "sae.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:4000])
    arguments = ("run", "tiny", "--until", "latent_statistics")
    for _ in range(2):
        end = interp(world, *arguments)
        assert (end.returncode, end.stderr) == (1, "")
        assert re.search(
            r"^failed +activation_cache\[layers.0\]: .*damaged or cut short", end.stdout, flags=re.MULTILINE
        )
        assert "blocked  latent_statistics[layers.0]: activation_cache[layers.0] is not up to date" in end.stdout
        assert "fresh, 1 failed, 1 blocked; " in end.stdout
    status = interp(world, "status", "tiny").stdout
    assert re.search(r"^failed +activation_cache\[layers.0\] +.*damaged or cut short", status, flags=re.MULTILINE)
    assert "blocked" in status
    weights.write_bytes(sound)
    mended = interp(world, *arguments)
    assert mended.returncode == 0
    assert "tiny: 3 made, 4 fresh; " in mended.stdout


def test_path_gives_files_that_polars_reads(root: Path, complete: End) -> None:
    for asset, layer in (
        ("explanations", (GOOD,)),
        ("scores/embedding/scores", (GOOD,)),
        ("corpus", ()),
        ("activation_cache/activations", (GOOD,)),
    ):
        end = interp(root, "path", "tiny", asset, *layer)
        assert (end.returncode, end.stderr) == (0, "")
        files = end.stdout.split()
        assert len(files) == 1
        assert len(pl.scan_parquet(files).collect()) > 40
    explanations = pl.read_parquet(interp(root, "path", "tiny", "explanations", GOOD).stdout.split())
    assert any(word in explanations["explanation"].drop_nulls()[0] for word in WORDS)
    assert interp(root, "path", "tiny", "score_report/page").stdout.strip().endswith(".html")


MISTAKES = [
    (("run", "nothing"), "no study 'nothing' ({root}/studies/nothing.yaml); in {root}/studies there are: broken, tiny"),
    (("run", "nowhere.yaml"), "no study 'nowhere.yaml' ({root}/nowhere.yaml); in {root}/studies there are: broken, tiny"),
    (("status", "broken"), "{root}/studies/broken.yaml: subject_model: missing; it must be a mapping with the keys"),
    (("run", "tiny", "--layers", "layers.9"), "--layers: tiny has no layer 'layers.9'; there are: embed_tokens, layers.0"),
    (("run", "tiny", "--until", "example"), f"--until: tiny has no asset 'example'; there are: {ASSETS}"),
    (("path", "tiny", "example"), f"tiny has no asset 'example'; there are: {ASSETS}"),
    (("path", "tiny", "examples"), "examples has one table for each layer; name one; there are: embed_tokens, layers.0"),
    (("path", "tiny", "examples", "layers.9"), "no layer 'layers.9'; there are: embed_tokens, layers.0"),
    (("path", "tiny", "corpus", "layers.0"), "corpus is one for all layers; leave 'layers.0' out"),
    (("path", "tiny", "examples/windows", GOOD), "examples has no table 'windows'; there are: examples"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_mistakes_list_what_there_is(root: Path, complete: End, arguments: tuple[str, ...], said: str) -> None:
    end = interp(root, *arguments)
    assert (end.returncode, end.stdout) == (2, "")
    assert end.stderr.startswith(f"error: {said.format(root=root)}")
    assert end.stderr.count("\n") == 1


def test_path_of_what_was_never_made(two_layers: Path, tmp_path: Path) -> None:
    settle_in(tmp_path / "world", two_layers)
    end = interp(tmp_path / "world", "path", "tiny", "examples", GOOD)
    assert end.returncode == 2
    said = f"error: examples[{GOOD}]: activation_cache[{GOOD}] is missing; run: interp run tiny --until examples\n"
    assert end.stderr == said


def test_path_of_what_is_stale_says_so(root: Path, complete: End) -> None:
    """On stderr, so that the files can still be read by another program."""
    shutil.copy(root / "studies" / "tiny.yaml", root / "studies" / "wider.yaml")
    changed(root / "studies" / "wider.yaml", {"examples.window": 8}, "wider.yaml")
    end = interp(root, "path", "wider", "examples", GOOD)
    assert end.returncode == 0
    assert end.stderr == "note: stale: examples.window: 16 -> 8\n"
    (root / "studies" / "wider.yaml").unlink()


@pytest.mark.parametrize("command", ["run", "status", "path", "doctor", None])
def test_help_shows_examples(root: Path, command: str | None) -> None:
    end = interp(root, *([command] if command else []), "--help")
    assert end.returncode == 0
    assert f"  interp {command or 'run'}" in end.stdout.split("examples:")[1]


def test_doctor(root: Path) -> None:
    end = interp(root, "doctor")
    assert (end.returncode, end.stderr) == (0, "")
    lines = dict(re.split(r" {2,}", line, maxsplit=1) for line in end.stdout.splitlines()[:-1])
    assert {"python", "dagster", "torch", "transformers", "devices", "disk", "port"} <= set(lines)
    assert "cores" in lines["devices"]
    assert end.stdout.endswith("\nready\n")


def test_doctor_says_what_is_missing(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from interp_assets import doctor

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(doctor, "version", lambda package: None if package == "torch" else "1.0")
    assert doctor.examine(root) == 1
    out = capsys.readouterr().out
    assert "torch                  missing (run: make install)" in out
    assert out.endswith("not ready: torch missing (run: make install)\n")
