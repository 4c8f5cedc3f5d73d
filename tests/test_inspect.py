"""`interp inspect`, and the page that says what can be read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp_assets.cli import main
from resources.errors import LONGEST, UnusableInput
from resources.sparse_autoencoders.formats import FORMATS
from resources.sparse_autoencoders.locate import locate
from resources.sparse_autoencoders.read import read_sae
from resources.sparse_autoencoders.saelens import NORMS, NORMS_TOLD
from resources.sparse_autoencoders.supported import PAGE, page
from tests.golden_cases import CASES, GOLDEN, location_of


@pytest.fixture
def world(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "sparsify_transcoder", tmp_path / "saes" / "layers.4.mlp")
    return tmp_path / "saes"


def test_one_in_full(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(world)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == str(world / "layers.4.mlp")
    assert lines[1:8] == [
        "format sparsify",
        "architecture topk transcoder",
        "reads layers.4.mlp:in",
        "writes layers.4.mlp",
        "latents 64",
        "dimensions 16",
        "published L0 8",
    ]
    assert "encoder.weight (64, 16) F32" in lines


def test_saelens_tells_its_l0_in_three_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """k, `l0` among the settings, or how often each latent fired, whose file is then one of the SAE's own."""
    shutil.copytree(GOLDEN / "saelens_standard", tmp_path / "sae")
    (location,) = locate(tmp_path)
    assert location.published_l0() is None and len(location.files()) == 2
    often = torch.rand(64, generator=torch.Generator().manual_seed(0))
    save_file({"sparsity": torch.log10(often + 1e-10)}, tmp_path / "sae" / "sparsity.safetensors")
    assert location.published_l0() == pytest.approx(float(often.sum()), rel=1e-5)
    assert location.files()[2].name == "sparsity.safetensors"
    assert main(["inspect", str(tmp_path)]) == 0
    assert f"published L0     {float(often.sum()):g}"[:20] in capsys.readouterr().out
    settings = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    settings["metadata"]["l0"] = 7.5
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(settings))
    assert location.published_l0() == 7.5


@pytest.mark.parametrize("value", [float("nan"), -10.0, 0.3])
def test_firing_rates_that_are_none_say_nothing(tmp_path: Path, value: float) -> None:
    """Not counted at all, reset just before, or shares instead of their logarithms."""
    shutil.copytree(GOLDEN / "saelens_standard", tmp_path / "sae")
    save_file({"sparsity": torch.full((64,), value)}, tmp_path / "sae" / "sparsity.safetensors")
    assert locate(tmp_path)[0].published_l0() is None


def test_firing_rates_of_another_sae(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(GOLDEN / "saelens_standard", tmp_path / "sae")
    file = tmp_path / "sae" / "sparsity.safetensors"
    save_file({"sparsity": torch.zeros(65)}, file)
    assert main(["inspect", str(tmp_path)]) == 2
    assert "sparsity is F32 [65], not a number for each of 64 latents" in capsys.readouterr().err
    save_file({"sparsity": torch.zeros(64)}, file)
    file.write_bytes(file.read_bytes()[:-9])
    assert main(["inspect", str(tmp_path)]) == 2
    assert "sparsity.safetensors: damaged or cut short" in capsys.readouterr().err


def test_many_in_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(GOLDEN)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["reads", "writes", "latents"]
    assert len(rows) == len(CASES)
    assert main(["inspect", str(GOLDEN), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    by_place = {Path(each["path"]): each for each in found["saes"]}
    for case, what in CASES.items():
        said = by_place[location_of(case).path]
        assert (said["architecture"], said["l0"]) == (what.architecture, what.l0)
        assert said["reads"] == what.reads


def test_a_problem_is_shown_beside_what_is_sound(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(world / "layers.4.mlp", world / "layers.5.mlp")
    (world / "layers.5.mlp" / "sae.safetensors").write_bytes(b"")
    assert main(["inspect", str(world)]) == 2
    shown = capsys.readouterr()
    assert "layers.4.mlp:in" in shown.out
    assert shown.err.startswith(f"problem: {world / 'layers.5.mlp' / 'sae.safetensors'}: damaged or cut short")


def test_names_are_understood_by_the_models_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert main(["inspect", str(GOLDEN / "saelens_hook_z"), "--model", str(tmp_path)]) == 0
    assert "h.3.attn.c_proj:in" in capsys.readouterr().out


@pytest.mark.parametrize(("path", "said"), [("./nowhere", "no such folder"), ("some/name", "hf download some/name")])
def test_nothing_there(path: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", path]) == 2
    assert said in capsys.readouterr().err


def test_what_files_say_is_shown_without_what_terminals_obey(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = world / "layers.4.mlp" / "cfg.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"activation": "topk\x1b[2J"}))
    assert main(["inspect", str(world)]) == 2
    said = capsys.readouterr().err
    assert "topk" in said and "\x1b" not in said


LONG = "\x1b[2J" + "x" * 2**20


def rename_a_tensor(folder: Path, name: str) -> None:
    tensors = load_file(folder / "sae.safetensors")
    save_file(
        {name if key == "encoder.bias" else key: each for key, each in tensors.items()}, folder / "sae.safetensors"
    )


def add_a_setting(folder: Path, name: str, value: str = LONG) -> None:
    config = folder / "cfg.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {name: value}))


def test_a_problem_is_one_clean_line(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rename_a_tensor(world / "layers.4.mlp", LONG)
    shutil.copytree(world / "layers.4.mlp", world / "layers.5.mlp\x1b[2J")
    add_a_setting(world / "layers.5.mlp\x1b[2J", "d_in")
    assert main(["inspect", str(world)]) == 2
    shown = capsys.readouterr()
    (problem,) = shown.err.splitlines()
    assert problem.startswith(f"problem: {world}/layers.5.mlp\\x1b[2J/cfg.json: d_in is not a number (")
    assert any(line.startswith("    \\x1b[2Jxxx") for line in shown.out.splitlines()), "control: the tensor is shown"
    assert all(line.isprintable() and len(line) < 1.1 * LONGEST for line in [problem, *shown.out.splitlines()])


@pytest.mark.parametrize("name", ["evil\x1b[2J\r\nproblem: none", LONG])
@pytest.mark.parametrize("hide", [rename_a_tensor, add_a_setting])
def test_an_sae_that_is_refused_as_well(world: Path, hide: Callable[[Path, str], None], name: str) -> None:
    hide(world / "layers.4.mlp", name)
    with pytest.raises(UnusableInput) as caught:
        read_sae(*locate(world))
    said = str(caught.value)
    assert "\\x1b[2J" in said and said.isprintable()
    assert len(said) <= LONGEST


def test_it_needs_no_torch(world: Path) -> None:
    code = f"import sys; from interp_assets.cli import main; main(['inspect', {str(world)!r}]); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m resources.sparse_autoencoders.supported"


def test_the_page_names_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every format, architecture and norm; and one that is added is not up to date before it stands there."""
    text = page()
    for name, module in FORMATS.items():
        assert f"`{name}`" in text
        assert all(f"| `{kind}` |" in text for kind in module.ARCHITECTURES)
    assert set(NORMS) - {"none"} <= set(NORMS_TOLD)
    monkeypatch.setitem(FORMATS["saelens"].ARCHITECTURES, "new", "something")
    assert page() != text
