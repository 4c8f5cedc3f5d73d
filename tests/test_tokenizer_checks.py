"""A tokenizer cuts text as its tokenizer.json says, whatever class its settings name, or is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from interp_assets.models_read import engine_tokenizer
from interp_assets.study import load_study
from resources import tokenizer_checks
from resources.errors import UnusableInput
from resources.tokenizers import load_tokenizer
from tests.fake_hub import reach
from tests.tiny import make_study
from tests.vocabularies import BOS, KINDS

TEXT = "The river ran on.\n\n    naïve café 🌊\n\t1234  end "


def saved(folder: Path, tokenizer: Tokenizer, **settings: object) -> Path:
    """A model's folder as its maker uploads it: tokenizer.json, and settings that name a class."""
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def by_its_file(folder: Path, text: str = TEXT) -> list[int]:
    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return ids


def digits_apart() -> Tokenizer:
    """As SmolLM2 and StarCoder: each digit by itself, which GPT-2's own rules do not do."""
    tokenizer = KINDS["byte_level"]()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    vocabulary = json.loads(tokenizer.to_str())["model"]
    vocabulary["vocab"]["12"], vocabulary["merges"] = len(vocabulary["vocab"]), [*vocabulary["merges"], ["1", "2"]]
    tokenizer.model = models.BPE(vocabulary["vocab"], [tuple(merge) for merge in vocabulary["merges"]])
    return tokenizer


# huggingface/transformers #45488 (DeepSeek-R1-Distill-Llama), #46489 (deepseek-coder), and classes that fit as badly.
CASES = {
    "byte level as Llama": ("byte_level", "LlamaTokenizerFast"),
    "digits apart as GPT-2": ("digits_apart", "GPT2Tokenizer"),
    "byte level as Qwen": ("byte_level", "Qwen2Tokenizer"),
    "byte fallback as GPT-2": ("byte_fallback", "GPT2TokenizerFast"),
    "byte fallback as Llama": ("byte_fallback", "LlamaTokenizer"),  # a space at the beginning is one too few
}


@pytest.mark.parametrize("case", CASES)
def test_ids_are_those_of_the_file_whatever_the_class(tmp_path: Path, case: str) -> None:
    kind, name = CASES[case]
    bos = BOS.get(kind, "<s>" if kind == "byte_fallback" else "<|endoftext|>")
    tokenizer = digits_apart() if kind == "digits_apart" else KINDS[kind]()
    model = saved(tmp_path / "model", tokenizer, tokenizer_class=name, bos_token=bos, chat_template="{{ 'x' }}")
    found = load_tokenizer(model)
    for text in (TEXT, "  " + TEXT, *tokenizer_checks.TEXTS):
        ids = found(text, add_special_tokens=False)["input_ids"]
        assert ids == by_its_file(model, text)
        assert found.decode(ids) == text
    assert (found.bos_token, found.chat_template) == (bos, "{{ 'x' }}")
    # Control: transformers by itself does otherwise.
    alone = AutoTokenizer.from_pretrained(model)
    assert any(
        alone(text, add_special_tokens=False)["input_ids"] != by_its_file(model, text) for text in (TEXT, "  " + TEXT)
    )


def test_a_class_that_cuts_as_the_file_says_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(tmp_path / "model", KINDS["byte_level"](), tokenizer_class="GPT2Tokenizer")
    first = load_tokenizer(model)
    assert type(first).__name__ == "GPT2Tokenizer"
    assert first.bos_token_id == 0  # <|endoftext|>, which only the class knows
    # What was compared once is not compared again.
    monkeypatch.setattr(Tokenizer, "from_file", None)
    assert type(load_tokenizer(model)).__name__ == "GPT2Tokenizer"


def test_special_tokens_of_the_class_stay_where_the_vocabulary_has_them(tmp_path: Path) -> None:
    """Settings that name none: GPT-2's class knows its <|endoftext|>, Llama's <unk> is no token of this vocabulary."""
    one = load_tokenizer(saved(tmp_path / "one", digits_apart(), tokenizer_class="GPT2Tokenizer"))
    assert (one.bos_token, one.bos_token_id) == ("<|endoftext|>", 0)
    other = load_tokenizer(saved(tmp_path / "other", KINDS["byte_level"](), tokenizer_class="LlamaTokenizer"))
    assert other.unk_token is None
    assert len(other) == Tokenizer.from_file(str(tmp_path / "other" / "tokenizer.json")).get_vocab_size()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_vocabulary_is_taken_as_it_is(tmp_path: Path, kind: str) -> None:
    """Lower case, white space that is not kept, unknown words: as their makers have it."""
    model = saved(tmp_path / "model", KINDS[kind](), tokenizer_class="PreTrainedTokenizerFast")
    found = load_tokenizer(model)
    for text in tokenizer_checks.TEXTS:
        assert found(text, add_special_tokens=False)["input_ids"] == by_its_file(model, text)


def letters_alone() -> Tokenizer:
    """As models of DNA: what is no base is dropped."""
    return Tokenizer(models.BPE({letter: place for place, letter in enumerate("ACGT")}, []))


def test_a_vocabulary_that_cannot_write_english_is_taken(tmp_path: Path) -> None:
    found = load_tokenizer(saved(tmp_path / "model", letters_alone(), tokenizer_class="PreTrainedTokenizerFast"))
    assert found("ACGA")["input_ids"] == [0, 1, 2, 0]


def test_files_that_lose_text_are_refused_in_one_line(tmp_path: Path) -> None:
    """A tokenizer.json that was written from a tokenizer already loaded wrongly agrees with itself and loses spaces."""
    right = saved(tmp_path / "right", KINDS["byte_level"](), tokenizer_class="LlamaTokenizerFast")
    AutoTokenizer.from_pretrained(right).save_pretrained(tmp_path / "wrong")
    with pytest.raises(UnusableInput) as caught:
        load_tokenizer(tmp_path / "wrong")
    assert "\n" not in str(caught.value)
    assert "loses text: of 'The river" in str(caught.value)
    assert "Theriver" in str(caught.value)
    load_tokenizer(right)  # control


def test_without_a_tokenizer_json_what_is_lost_is_seen_too(tmp_path: Path) -> None:
    tokenizer = KINDS["byte_level"]()
    model = json.loads(tokenizer.to_str())["model"]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    found = load_tokenizer(folder)
    assert found.decode(found(TEXT)["input_ids"]) == TEXT
    assert tokenizer_checks.own_file(folder, None) is None


def test_settings_that_add_tokens_to_the_file_are_refused(tmp_path: Path) -> None:
    added = {
        "999": {
            "content": "river",
            "special": False,
            "normalized": False,
            "lstrip": False,
            "rstrip": False,
            "single_word": False,
        }
    }
    model = saved(
        tmp_path / "model", KINDS["byte_level"](), tokenizer_class="GPT2Tokenizer", added_tokens_decoder=added
    )
    with pytest.raises(UnusableInput, match=r"otherwise than its tokenizer\.json says") as caught:
        load_tokenizer(model)
    assert "\n" not in str(caught.value)


def test_subject_and_judges_are_checked_in_folders_and_in_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "a" * 40
    home = tmp_path / "cache" / "models--owner--name"
    model = saved(home / "snapshots" / commit, KINDS["byte_level"](), tokenizer_class="LlamaTokenizerFast")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    reach(monkeypatch, None, tmp_path / "cache")
    assert tokenizer_checks.own_file("owner/name", commit) == model / "tokenizer.json"
    for place, revision in (("owner/name", commit), ("owner/name", None), (model, None)):
        assert load_tokenizer(place, revision)(TEXT)["input_ids"] == by_its_file(model)
    study = load_study(
        make_study(tmp_path, engines={"oracle": {"kind": "transformers", "path": "owner/name", "revision": commit}})
    )
    judge = engine_tokenizer(study, "oracle")
    assert judge is not None
    assert judge(TEXT)["input_ids"] == by_its_file(model)
