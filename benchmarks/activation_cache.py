"""Activation cache: time beside a bare forward and encode, memory as tokens grow, bytes on disk, reading one latent."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measuring import CONTEXT_LENGTH, LATENTS, K, arguments, report, seconds, write_cache
from interp_assets.activations.cache_file import CacheReader, CacheWriter
from interp_assets.activations.harvest import as_ids, entries_of
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder, TopActivations
from resources.subject_model import SubjectModel, context_batches
from resources.table_store import TableStore

LAYERS, D_MODEL, BATCH_TOKENS = 4, 576, 4_096


def make_subject(folder: Path) -> SubjectModel:
    """A random model of SmolLM2-135M's shape, of which the pass runs LAYERS layers."""
    config = LlamaConfig(
        vocab_size=4_096,
        hidden_size=D_MODEL,
        intermediate_size=1_536,
        num_hidden_layers=LAYERS + 2,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    return SubjectModel(folder, None, "bfloat16", "cpu")


def make_sae() -> SparseAutoencoder:
    directions = torch.nn.functional.normalize(torch.randn(LATENTS, D_MODEL), dim=1)
    return SparseAutoencoder(
        directions.T.contiguous(), torch.zeros(LATENTS), directions, torch.zeros(D_MODEL), "topk", k=K
    )


def compare_with_bare_pass(root: Path, contexts: int, repeat: int) -> None:
    subject, sae = make_subject(root / "model"), make_sae()
    tokens = np.random.default_rng(0).integers(0, 4_096, (contexts, CONTEXT_LENGTH)).astype(np.uint32)
    hookpoint = f"layers.{LAYERS - 1}"

    def encoded() -> Iterator[tuple[slice, TopActivations]]:
        for batch in context_batches(tokens, BATCH_TOKENS):
            x = subject.activations(as_ids(tokens[batch]), [hookpoint])[hookpoint]
            yield batch, sae.encode(x[:, 1:].flatten(0, 1))

    def bare() -> None:
        for _ in encoded():
            pass

    def cached() -> None:
        with TableStore(root).draft("cache", None, "bench") as draft:
            writer = CacheWriter(draft, LATENTS)
            for batch, top in encoded():
                writer.append(entries_of(top, batch.start, CONTEXT_LENGTH - 1, 1))
            writer.finish()

    bare()  # the first pass warms up
    pairs = [(seconds(cached), seconds(bare)) for _ in range(repeat)]
    report("caching_tokens_per_second", tokens.size / statistics.median(a for a, _ in pairs))
    report("bare_forward_and_encode_tokens_per_second", tokens.size / statistics.median(b for _, b in pairs))
    report("caching_over_bare_ratio", statistics.median(a / b for a, b in pairs))


def peak_megabytes(root: str, tokens: int, latents: int) -> None:
    """Runs in a process of its own, whose peak memory it prints to the parent."""
    write_cache(Path(root), tokens // CONTEXT_LENGTH, latents)
    Path(root, f"peak-{tokens}-{latents}").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def peak_in_new_process(root: Path, tokens: int, latents: int = LATENTS) -> float:
    process = multiprocessing.get_context("spawn").Process(target=peak_megabytes, args=(str(root), tokens, latents))
    process.start()
    process.join()
    return float((root / f"peak-{tokens}-{latents}").read_text())


def measure_reading(cache: CacheReader, name: str) -> None:
    size = sum(file.stat().st_size for file in cache.files)
    report(f"{name}_bytes_per_activation", size / int(cache.entries.sum()))
    latents = np.random.default_rng(0).choice(np.flatnonzero(cache.entries), 200)
    milliseconds = [1_000 * seconds(partial(cache.latent, int(latent))) for latent in latents]
    report(f"{name}_read_one_latent_median_ms", statistics.median(milliseconds))
    report(f"{name}_read_one_latent_95th_percentile_ms", float(np.quantile(milliseconds, 0.95)))


def main() -> None:
    quick = arguments(__doc__).quick
    small, large = (65_536, 262_144) if quick else (262_144, 1_048_576)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        before, after = peak_in_new_process(root, small), peak_in_new_process(root, large)
        report(f"peak_memory_at_{small}_tokens_mb", before)
        report(f"peak_memory_growth_to_{large}_tokens_mb", after - before)
        partition = TableStore(root).partition("activation_cache", str(LATENTS), str(large // CONTEXT_LENGTH))
        assert partition is not None
        measure_reading(CacheReader(partition), "cache")
        wide, tokens = 131_072, 32_768 if quick else 131_072
        report(f"peak_memory_of_{wide}_latents_mb", peak_in_new_process(root, tokens, wide))
        partition = TableStore(root).partition("activation_cache", str(wide), str(tokens // CONTEXT_LENGTH))
        assert partition is not None
        measure_reading(CacheReader(partition), "wide_cache")
        compare_with_bare_pass(root, 64 if quick else 256, 3 if quick else 7)


if __name__ == "__main__":
    main()
