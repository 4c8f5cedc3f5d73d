"""Statistics and promoted tokens of 2,048 latents on 131k tokens, beside a loop over latents in plain numpy."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from benchmarks.measuring import median_seconds, quick, seconds, show
from benchmarks.synthetic_cache import CONTEXT_LENGTH, random_tokens, write_cache
from interp_assets.activations.cache_file import CacheReader
from interp_assets.activations.statistics import TOP_SHARE, latent_statistics
from interp_assets.tables import QUANTILES
from resources.subject_model import PromotedTokens, SubjectModel

LATENTS, K, CONTEXTS, D_MODEL, VOCABULARY = 2048, 32, 512, 576, 49_152
REFERENCE_LATENTS = 64


def main() -> None:
    times = 3 if quick() else 9
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        cache = write_cache(Path(folder), CONTEXTS, LATENTS, K)
        tokens = random_tokens(CONTEXTS, VOCABULARY)
        subject = random_model(Path(folder) / "model")
        W_dec = torch.nn.functional.normalize(torch.randn(LATENTS, D_MODEL), dim=1)
        statistics = median_seconds(lambda: latent_statistics(cache, tokens, skip=1), times)
        promoted = median_seconds(lambda: subject.promoted_tokens(W_dec), times)
        drawn = np.sort(np.random.default_rng(2).permutation(LATENTS)[:REFERENCE_LATENTS])
        rows: list[dict[str, object]] = []
        reference = seconds(lambda: rows.extend(one_by_one(cache, tokens, subject, W_dec, drawn)))
        agree(rows, latent_statistics(cache, tokens, skip=1), subject.promoted_tokens(W_dec))
    show("latents", LATENTS)
    show("tokens", CONTEXTS * CONTEXT_LENGTH)
    show("statistics_seconds", statistics)
    show("promoted_tokens_seconds", promoted)
    show("together_seconds", statistics + promoted)
    show("reference_seconds_extrapolated", reference * LATENTS / REFERENCE_LATENTS)
    show("reference_over_project_ratio", reference * LATENTS / REFERENCE_LATENTS / (statistics + promoted))


def random_model(folder: Path) -> SubjectModel:
    """A model of one layer with the unembedding of a small LLM."""
    logging.disable_progress_bar()
    config = LlamaConfig(
        hidden_size=D_MODEL,
        vocab_size=VOCABULARY,
        intermediate_size=64,
        num_attention_heads=9,
        num_key_value_heads=3,
        num_hidden_layers=1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return SubjectModel(folder, None, "bfloat16", "cpu")


def one_by_one(
    cache: CacheReader, tokens: np.ndarray, subject: SubjectModel, W_dec: torch.Tensor, latents: np.ndarray
) -> list[dict[str, object]]:
    """The reference: each latent by itself, every number by the numpy function that is made for it."""
    unembedding = subject.model.get_output_embeddings().weight.detach().float().numpy()
    contexts, length = tokens.shape
    rows = []
    for latent in latents.tolist():
        _, context, position, activation = cache.latent(latent)
        strongest = activation >= np.sort(activation)[int((1 - TOP_SHARE) * len(activation) + 1e-9)]
        at_position = np.bincount(position, minlength=length)[1:] / contexts
        overall = at_position.mean()
        with np.errstate(divide="ignore", invalid="ignore"):
            fires = np.nan_to_num(at_position * np.log(at_position / overall))
            silent = np.nan_to_num((1 - at_position) * np.log((1 - at_position) / (1 - overall)))
        logits = unembedding @ W_dec[latent].numpy()
        order = np.argsort(logits)
        rows.append(
            {
                "latent": latent,
                "firing_rate": len(activation) / (contexts * (length - 1)),
                "context_rate": len(np.unique(context)) / contexts,
                "max_activation": activation.max(),
                "mean_activation": activation.mean(),
                "quantiles": np.quantile(activation, QUANTILES),
                "position_information": (fires + silent).mean(),
                "top_tokens": len(np.unique(tokens[context, position][strongest])),
                "promoted_logits": logits[order[:-11:-1]],
                "suppressed_logits": logits[order[:10]],
            }
        )
    return rows


def agree(rows: list[dict[str, object]], table: pl.DataFrame, promoted: PromotedTokens) -> None:
    """What is fast must also be right."""
    for row in rows:
        latent = row["latent"]
        assert isinstance(latent, int)
        ours = table.row(latent, named=True)
        for name in ("firing_rate", "context_rate", "max_activation", "mean_activation", "quantiles", "top_tokens"):
            np.testing.assert_allclose(ours[name], row[name], rtol=1e-5)
        np.testing.assert_allclose(ours["position_information"], row["position_information"], rtol=1e-4)
        np.testing.assert_allclose(promoted.promoted_logits[latent], row["promoted_logits"], rtol=1e-3)
        np.testing.assert_allclose(promoted.suppressed_logits[latent], row["suppressed_logits"], rtol=1e-3)


if __name__ == "__main__":
    main()
