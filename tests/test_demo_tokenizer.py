"""The demo's tokenizer cuts text as SmolLM2's does, and a folder that was made otherwise is made anew."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from interp_assets.study import PROJECT

# What llama.cpp (xllamacpp 2026.10.11549) makes of the GGUF's own vocabulary. transformers reads no pre-tokenizer but
# GPT-2's from a GGUF; what SmolLM's is, ggml-org/llama.cpp #8609 has.
LLAMA_CPP = {
    "\n\n1.": [1116, 33, 30],
    "x  12": [104, 256, 33, 34],
    "\t\t3 = \t4": [1656, 35, 446, 216, 197, 36],
    "In  1914,\n\n   2 ships": [788, 256, 33, 41, 33, 36, 28, 1004, 34, 7761],
    "1/2 \N{VULGAR FRACTION ONE HALF} x\N{SUPERSCRIPT TWO} \N{ROMAN NUMERAL EIGHT}": [
        *(33, 31, 34, 216, 16738, 1792, 19133, 216, 173, 223, 117),
    ],
    "  \n  ": [256, 11181],
    "def f():\n    return 10\n": [1604, 275, 3734, 472, 1003, 216, 33, 32, 198],
    "\N{ARABIC-INDIC DIGIT THREE}\N{ARABIC-INDIC DIGIT FOUR} years": [164, 113, 164, 114, 929],
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(PROJECT / "demo/weights/SmolLM2-135M-Instruct/tokenizer.json"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`demo/prepare_weights.py`, which makes nothing but an empty folder."""
    spec = importlib.util.spec_from_file_location("prepare_weights", PROJECT / "demo" / "prepare_weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "copy_minilm", lambda folder: folder.mkdir(parents=True))

    def convert(folder: Path) -> None:
        with module.written_aside(folder) as aside:
            (aside / "tokenizer.json").write_text("new")
            (aside / module.RECIPE_FILE).write_text(module.RECIPE)

    monkeypatch.setattr(module, "convert_smollm2", convert)
    return module


@pytest.mark.parametrize(("text", "ids"), LLAMA_CPP.items())
def test_text_is_cut_as_llama_cpp_cuts_it(tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer.encode(text).ids == ids
    assert tokenizer.decode(ids) == text


def test_as_gpt_2_cuts_it_is_another_text(tokenizer: Tokenizer) -> None:
    """The control."""
    other = Tokenizer.from_str(tokenizer.to_str())
    other.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    wrong = [text for text, ids in LLAMA_CPP.items() if other.encode(text).ids != ids]
    assert {"\n\n1.", "x  12"} <= set(wrong)
    assert other.encode("\n\n1.").ids == [198, 198, 33, 30]


def test_a_pre_tokenizer_of_no_known_name_is_refused(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="error: the GGUF's pre-tokenizer 'qwen2' is not known, only gpt-2, smollm"):
        script.pre_tokenizer("qwen2")


def test_a_folder_of_an_earlier_recipe_is_made_anew_and_once(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smollm = tmp_path / "SmolLM2-135M-Instruct"
    smollm.mkdir()
    (smollm / "tokenizer.json").write_text("old")
    script.main(tmp_path)
    assert (smollm / "tokenizer.json").read_text() == "new"
    assert "of an earlier version of this script, unpacking anew" in capsys.readouterr().out
    (smollm / "tokenizer.json").write_text("kept")
    script.main(tmp_path)
    assert (smollm / "tokenizer.json").read_text() == "kept"
    assert capsys.readouterr().out.count("already there") == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == ["SmolLM2-135M-Instruct", "all-MiniLM-L6-v2"]


def test_what_fails_leaves_the_earlier_folder(script: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "file").write_text("earlier")
    with pytest.raises(RuntimeError), script.written_aside(folder):
        raise RuntimeError
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
    assert (folder / "file").read_text() == "earlier"
