"""The activation cache: what writing adds to forward and encode, its memory, its bytes, and reading one latent."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measuring import quick, seconds, show
from benchmarks.synthetic_cache import CONTEXT_LENGTH, firings
from interp_assets.activations.cache_file import CacheReader, CacheWriter
from resources.table_store import TableStore

LATENTS, K = 2048, 32
MANY_LATENTS = 131_072
D_MODEL, LAYERS = 576, 6


def main() -> None:
    # The processes that are measured start first: a child's peak begins at what its parent occupied.
    few, many = (128, 512) if quick() else (1024, 4096)
    small, large = (in_a_process(contexts, LATENTS) for contexts in (few, many))
    wide = in_a_process(128 if quick() else 512, MANY_LATENTS)
    show("small_cache_tokens", few * CONTEXT_LENGTH)
    show("large_cache_tokens", many * CONTEXT_LENGTH)
    show("large_cache_activations", int(large["activations"]))
    show("large_cache_write_seconds", large["seconds"])
    show("large_cache_peak_memory_mb", large["peak_mb"])
    show("peak_memory_growth_small_to_large_mb", large["peak_mb"] - small["peak_mb"])
    show("bytes_per_activation", large["bytes_per_activation"])
    show("read_one_latent_median_ms", large["read_ms"])
    show("read_one_latent_95th_percentile_ms", large["read_95_ms"])
    show("with_131072_latents_activations", int(wide["activations"]))
    show("with_131072_latents_write_seconds", wide["seconds"])
    show("with_131072_latents_peak_memory_mb", wide["peak_mb"])
    show("with_131072_latents_bytes_per_activation", wide["bytes_per_activation"])
    show("with_131072_latents_read_one_latent_median_ms", wide["read_ms"])
    compare_with_forward()


def in_a_process(contexts: int, n_latents: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.activation_cache", "--write", str(contexts), str(n_latents)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def write_and_read(contexts: int, n_latents: int) -> dict[str, float]:
    """Write random firings, read some latents, and measure this process."""
    writing = 0.0
    written = np.zeros(n_latents)
    with tempfile.TemporaryDirectory() as folder:
        with TableStore(Path(folder)).draft("activation_cache", None, "synthetic") as draft:
            writer = CacheWriter(draft, n_latents)
            for entries in firings(contexts, n_latents, K):
                written += np.bincount(entries.latent, weights=entries.activation, minlength=n_latents)
                start = time.perf_counter()
                writer.append(entries)
                writing += time.perf_counter() - start
            writing += seconds(writer.finish)
            partition = draft.commit({}, {})
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        reader = CacheReader(partition)
        size = sum(file.stat().st_size for file in partition.files("activations") + partition.files("index"))
        times = []
        for latent in np.random.default_rng(4).integers(0, n_latents, 500).tolist():
            start = time.perf_counter()
            entries = reader.latent(latent)
            times.append((time.perf_counter() - start) * 1000)
            np.testing.assert_allclose(entries.activation.sum(dtype=np.float64), written[latent])
    activations = int(reader.entries.sum())
    return {
        "activations": activations,
        "seconds": writing,
        "peak_mb": peak,
        "bytes_per_activation": size / activations,
        "read_ms": float(np.median(times)),
        "read_95_ms": float(np.quantile(times, 0.95)),
    }


def compare_with_forward() -> None:
    """The whole pass over a corpus with a random Llama and SAE, beside the same forward and encode without a cache."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    from interp_assets.activations.harvest import LayerPass, as_ids, harvest
    from interp_assets.progress import Progress
    from interp_assets.settings import ProofOfLoad
    from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
    from resources.subject_model import SubjectModel, context_batches

    logging.disable_progress_bar()
    torch.manual_seed(0)
    rounds, contexts, vocabulary, batch_tokens = (5, 48, 4096, 4096) if quick() else (7, 256, 4096, 4096)
    hookpoint = f"layers.{LAYERS - 1}"
    tokens = np.random.default_rng(5).integers(0, vocabulary, (contexts, CONTEXT_LENGTH)).astype(np.uint32)
    W_enc = torch.randn(D_MODEL, LATENTS) / D_MODEL**0.5
    sae = SparseAutoencoder(
        W_enc=W_enc,
        b_enc=torch.zeros(LATENTS),
        W_dec=torch.nn.functional.normalize(W_enc.T, dim=1).contiguous(),
        b_dec=torch.zeros(D_MODEL),
        activation="topk",
        k=K,
    )
    # One context proves the load here: 4,096 tokens are nothing beside 10 million, but much of this corpus.
    limits = ProofOfLoad(tokens=CONTEXT_LENGTH, max_fvu=1e9, compare_layers=False)

    with tempfile.TemporaryDirectory() as folder:
        config = LlamaConfig(
            hidden_size=D_MODEL,
            intermediate_size=1536,
            num_attention_heads=9,
            num_key_value_heads=3,
            num_hidden_layers=LAYERS + 2,
            vocab_size=vocabulary,
        )
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        subject = SubjectModel(folder, None, "bfloat16", "cpu")

        def bare() -> None:
            for batch in context_batches(tokens, batch_tokens):
                x = subject.activations(as_ids(tokens[batch]), [hookpoint])[hookpoint]
                sae.encode(x[:, 1:].flatten(0, 1))

        def caching() -> None:
            with TableStore(Path(folder) / "tables").draft("activation_cache", None, "synthetic") as draft:
                layer = LayerPass("", hookpoint, None, lambda: sae, lambda n_latents: CacheWriter(draft, n_latents))
                progress = Progress("", tokens.size, "tokens")
                harvest(subject, tokens, [layer], skip=1, batch_tokens=batch_tokens, limits=limits, progress=progress)
                if layer.failure is not None:
                    raise layer.failure
                draft.commit({}, {})

        bare()
        pairs = np.array([(seconds(bare), seconds(caching)) for _ in range(rounds)])
    ratios = pairs[:, 1] / pairs[:, 0]
    bare_median, caching_median = np.median(pairs, axis=0).tolist()
    show("forward_tokens", int(tokens.size))
    show("forward_and_encode_median_seconds", bare_median)
    show("caching_median_seconds", caching_median)
    show("caching_over_forward_and_encode_lowest_ratio", float(ratios.min()))
    show("caching_over_forward_and_encode_highest_ratio", float(ratios.max()))
    show("caching_over_forward_and_encode_ratio", caching_median / bare_median)


if __name__ == "__main__":
    if "--write" in sys.argv:
        print(json.dumps(write_and_read(*map(int, sys.argv[-2:]))))
    else:
        main()
