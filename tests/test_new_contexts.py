"""What `interp init` writes about contexts: the first stages make it as it stands, for tokenizers as families have them.

What TransformerLens does where a tokenizer has no BOS is said in TransformerLensOrg/TransformerLens #1628 and #1629.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM

from interp_assets.context_survey import has_bos_token, tokenizer_in
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.new_study import write_study
from interp_assets.study import Study, load_study
from resources.errors import UnusableInput
from resources.loaded_models import LoadedModels
from resources.tokenizers import load_tokenizer

WIDTH = 32
TEXT = "the old river went down to the sea and the boats came home again\n\n" * 40
GPT2 = {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 512, "bos_token_id": 256, "eos_token_id": 256}
OTHERS = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
MODELS: dict[str, tuple[str, dict[str, Any], list[str], dict[str, Any]]] = {
    # As openai-community/gpt2 has it: what begins texts stands in no file, only in the tokenizer's class.
    "gpt2": ("gpt2", GPT2, ["<|endoftext|>"], {"model_max_length": 1024}),
    # A base model of Qwen's: no BOS, whatever the model's own settings say.
    "qwen": (
        "qwen3",
        OTHERS | {"head_dim": 8, "bos_token_id": 256, "eos_token_id": 256},
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|endoftext|>", "add_bos_token": False},
    ),
    "llama": (
        "llama",
        OTHERS | {"bos_token_id": 256, "eos_token_id": 257},
        ["<|begin_of_text|>", "<|end_of_text|>"],
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|end_of_text|>",
        },
    ),
    "nameless": (
        "llama",
        OTHERS | {"bos_token_id": None, "eos_token_id": None},
        ["<|x|>"],
        {"tokenizer_class": "PreTrainedTokenizerFast"},
    ),
}


def make_folder(folder: Path, name: str, **changes: Any) -> Path:
    kind, config, special, settings = MODELS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config | changes, vocab_size=264))
    model.save_pretrained(folder)
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: i for i, sign in enumerate(signs)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary | {each: 256 + i for i, each in enumerate(special)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def make_saes(root: Path, hook: str, **metadata: Any) -> Path:
    """An SAE by SAELens that reconstructs all dimensions."""
    root.mkdir(parents=True)
    both = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
    weights = {
        "W_enc": both.T.contiguous(),
        "b_enc": torch.zeros(2 * WIDTH),
        "W_dec": both,
        "b_dec": torch.zeros(WIDTH),
    }
    save_file(weights, root / "sae_weights.safetensors")
    said = {"sae_lens_version": "6.12.0", "hook_name": hook} | metadata
    settings = {"architecture": "topk", "d_in": WIDTH, "d_sae": 2 * WIDTH, "k": WIDTH, "metadata": said}
    (root / "cfg.json").write_text(json.dumps(settings))
    return root


def init(root: Path, model: Path, corpus: Path, **metadata: Any) -> tuple[Study, dict[str, Any], dict[str, str]]:
    saes = make_saes(root / "saes", "blocks.0.hook_resid_post", **metadata)
    study, found = write_study(str(saes), str(root / "new.yaml"), str(model), str(corpus))
    return study, yaml.safe_load(study.file.read_text()), found.assumed


CASES: list[tuple[str, dict[str, Any], bool | str]] = [
    ("gpt2", {"prepend_bos": True}, True),
    ("gpt2", {"prepend_bos": False}, False),
    ("qwen", {"prepend_bos": True}, "<|endoftext|>"),
    ("qwen", {"prepend_bos": False}, False),
    ("llama", {"prepend_bos": True}, True),
    ("nameless", {"prepend_bos": True}, False),
]


@pytest.mark.parametrize(("name", "metadata", "bos"), CASES)
def test_the_first_stages_make_what_is_written(
    tmp_path: Path, name: str, metadata: dict[str, Any], bos: bool | str
) -> None:
    model = make_folder(tmp_path / "model", name)
    (tmp_path / "c.txt").write_text(TEXT)
    study, written, assumed = init(tmp_path, model, tmp_path / "c.txt", **metadata)
    assert written["corpus"]["bos"] == bos
    assert ("  skip_first: 1" in study.file.read_text()) is not bool(bos)
    assert "corpus.bos" in assumed
    for asset in ("sae_weights", "corpus", "activation_cache"):
        key = None if asset == "corpus" else study.layers[0].key
        make_partition(study, asset, key, LoadedModels(), [study.layers[0].key])
    tokens = tokens_matrix(corpus_of(study).read("corpus", ["tokens"]))
    first = load_tokenizer(model).decode([int(tokens[0, 0])])
    assert first == (MODELS[name][2][0] if bos else TEXT[0])
    assert bos is False or set(tokens[:, 0].tolist()) == {256}
    assert tokens.size == written["corpus"]["tokens"] > 1024


def corpus_of(study: Study) -> Any:
    found = Freshness(study).current("corpus", None)
    assert found is not None
    return found


def test_what_stands_in_no_file_is_asked_of_the_class(tmp_path: Path) -> None:
    model = make_folder(tmp_path / "model", "gpt2")
    by_settings = json.loads((model / "tokenizer_config.json").read_text()).get("bos_token")
    assert (by_settings, load_tokenizer(model).bos_token) == (None, "<|endoftext|>")  # control: files say nothing
    assert has_bos_token(model, None) is None
    assert has_bos_token(model, tokenizer_in(model, "")) is True


def test_contexts_are_no_longer_than_the_model_has_positions_and_windows_than_contexts(tmp_path: Path) -> None:
    model = make_folder(tmp_path / "model", "gpt2", n_positions=24)
    (tmp_path / "c.txt").write_text(TEXT)
    study, written, assumed = init(tmp_path, model, tmp_path / "c.txt", prepend_bos=True)
    assert (written["corpus"]["context_length"], written["examples"]["window"]) == (24, 24)
    assert assumed["corpus.context_length"] == "as many positions as the model has"
    make_partition(study, "corpus", None, LoadedModels())


def test_no_more_tokens_than_the_text_holds(tmp_path: Path) -> None:
    model = make_folder(tmp_path / "model", "llama")
    (tmp_path / "c.txt").write_text(TEXT)
    study, written, _ = init(tmp_path, model, tmp_path / "c.txt", prepend_bos=False)
    # Single bytes are the tokens of this vocabulary; documents of 64 of them, and a separator of 2.
    assert written["corpus"]["tokens"] == len(TEXT) // 256 * 256
    assert "# all that the text holds" in study.file.read_text()
    study.file.write_text(study.file.read_text().replace(f"tokens: {len(TEXT) // 256 * 256}", "tokens: 262144"))
    more = load_study(study.file)
    with pytest.raises(UnusableInput, match=r"corpus\.tokens asks for 262,144"):  # control: as it was written before
        make_partition(more, "corpus", None, LoadedModels())


def test_a_text_under_another_name_is_to_be_named(tmp_path: Path) -> None:
    model = make_folder(tmp_path / "model", "llama")
    (tmp_path / "c.jsonl").write_text(json.dumps({"body": TEXT}))
    study, _, assumed = init(tmp_path, model, tmp_path / "c.jsonl")
    assert assumed["corpus.path"].startswith("CHANGE THIS, or name its column: ")
    assert "line 1 has no 'text'; there are: body" in study.file.read_text()
