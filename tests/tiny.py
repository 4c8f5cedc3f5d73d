"""A tiny world with planted truths: a model whose hidden states name its tokens, an SAE with one latent per word.

The model is a random Llama whose embedding is a scaled identity, so at the hookpoint `embed_tokens` every token is its
own direction, and all share one shift. The SAE reads just that: latent i fires on word i and on nothing else.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = [
    f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe", "ri", "so", "ta") for b in ("ba", "de", "fi", "go", "hu", "za")
]
SPECIAL = ["<s>", "<unk>"]
VOCABULARY = [*SPECIAL, *WORDS]
HIDDEN = len(VOCABULARY) + (-len(VOCABULARY)) % 8
CONTEXT = 64
SHIFT = 8.0
"Added to every hidden state along the direction of latent 0; the SAE's b_dec takes it away."


def make_model(folder: Path, layers: int = 2) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(5 * torch.eye(len(VOCABULARY), HIDDEN) + shift())
    model.save_pretrained(folder)
    make_tokenizer(VOCABULARY).save_pretrained(folder)
    return folder


def shift() -> torch.Tensor:
    vector = torch.zeros(HIDDEN)
    vector[0] = SHIFT
    return vector


def make_tokenizer(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def make_sae(folder: Path, hookpoint: str = "embed_tokens", k: int = 1) -> Path:
    """Latent i is word i. Where b_dec is not subtracted, latent 0 alone fires on everything."""
    n = len(VOCABULARY)
    directions = torch.eye(n, HIDDEN)
    target = folder / hookpoint
    target.mkdir(parents=True, exist_ok=True)
    weights = {
        "encoder.weight": directions,
        "encoder.bias": torch.zeros(n),
        "W_dec": directions.clone(),
        "b_dec": shift(),
    }
    save_file(weights, target / "sae.safetensors")
    (target / "cfg.json").write_text(json.dumps({"d_in": HIDDEN, "num_latents": n, "k": k, "activation": "topk"}))
    return folder


def make_embedder(folder: Path) -> Path:
    """A sentence embedder of random weights over the tiny vocabulary: texts that share words lie close."""
    from sentence_transformers import SentenceTransformer, models

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        pad_token_id=1,
    )
    tokenizer = make_tokenizer(VOCABULARY)
    tokenizer.add_special_tokens({"pad_token": "<unk>"})
    with tempfile.TemporaryDirectory() as bert:
        BertModel(config).save_pretrained(bert)
        tokenizer.save_pretrained(bert)
        words = models.Transformer(bert, max_seq_length=128)
        SentenceTransformer(modules=[words, models.Pooling(32)], device="cpu").save(str(folder))
    return folder


def make_reranker(folder: Path, scores: int = 1) -> Path:
    """A CrossEncoder of random weights over the tiny vocabulary.

    Args:
        scores: that it gives of each pair.
    """
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        pad_token_id=1,
        num_labels=scores,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = make_tokenizer(VOCABULARY)
    tokenizer.add_special_tokens({"pad_token": "<unk>"})
    tokenizer.model_max_length = 128
    tokenizer.save_pretrained(folder)
    return folder


def make_corpus(file: Path, documents: int = 200, seed: int = 0) -> Path:
    """Documents of random words, some rarer than others."""
    draw = np.random.default_rng(seed)
    weights = np.linspace(1.0, 0.05, len(WORDS))
    weights /= weights.sum()
    texts = [" ".join(draw.choice(WORDS, size=draw.integers(60, 120), p=weights)) for _ in range(documents)]
    pl.DataFrame({"text": texts}).write_parquet(file)
    return file


def make_study(root: Path, **changes: object) -> Path:
    """A study file with everything it needs beside it; `changes` replace top-level settings."""
    make_model(root / "model")
    make_sae(root / "saes")
    make_corpus(root / "corpus.parquet")
    return write_study(root / "study.yaml", **changes)


def write_study(file: Path, **changes: object) -> Path:
    settings: dict[str, object] = {
        "name": "tiny",
        "storage": "store",
        "subject_model": {"path": "./model", "dtype": "float32", "device": "cpu", "batch_tokens": 512},
        "saes": [{"path": "saes", "hookpoints": ["embed_tokens"]}],
        "corpus": {"path": "corpus.parquet", "tokens": 8192, "context_length": CONTEXT, "separator": " "},
        "proof_of_load": {"tokens": 1024},
        "examples": {
            "window": 16,
            "min_windows": 8,
            "explain": {"n": 10},
            "test": {"activating": 10, "non_activating": 10},
        },
        "engines": {"oracle": {"kind": "transformers", "path": "./model"}},
        "explainers": {"llm": {"kind": "llm", "engine": "oracle"}},
        "scorers": {
            "detection": {"engine": "oracle", "activating": 10, "non_activating": 10},
            "fuzzing": {"engine": "oracle", "activating": 10, "non_activating": 10},
        },
    }
    file.write_text(yaml.safe_dump({**settings, **changes}))
    return file
