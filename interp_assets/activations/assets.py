"""activation_cache, latent_statistics; sae_weights stands in `sae_files.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import torch

from interp_assets.activations import sae_files
from interp_assets.activations.attention_sinks import warning_of
from interp_assets.activations.cache_file import CacheReader, CacheWriter
from interp_assets.activations.harvest import LayerPass, activations_at, harvest
from interp_assets.activations.plots import firing_rate_histogram
from interp_assets.activations.statistics import latent_statistics as compute_statistics
from interp_assets.carry_over import inputs_hash, still_hold, without
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.examples.rendering import Rendering
from interp_assets.job import Inputs, Job, Metadata, computes
from interp_assets.layer_sae import sae_of, subject_of
from interp_assets.models import subject_model
from interp_assets.progress import Progress
from interp_assets.study import Study
from interp_assets.tables import LATENT_STATISTICS, conform
from resources.content_hash import mixed
from resources.errors import UnusableInput
from resources.partition_files import Partition
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.sparse_autoencoders.controls import Neurons, NeuronsOf, RandomSae
from resources.sparse_autoencoders.location import SaeLocation
from resources.sparse_autoencoders.read import read_sae
from resources.subject_model import SubjectModel

assert sae_files  # imported for what it registers


@computes("activation_cache")
def activation_cache(jobs: list[Job]) -> dict[str | None, Metadata | UnusableInput]:
    study = jobs[0].study
    tokens = tokens_matrix(jobs[0].input("corpus").read("corpus", ["tokens"]))
    found: dict[str | None, Metadata | UnusableInput] = {}
    # The untrained model comes first, so that the trained one is in memory for what follows.
    for untrained in sorted({job.study.layer(job.layer).untrained for job in jobs}, key=lambda seed: seed is None):
        of_subject = [job for job in jobs if job.study.layer(job.layer).untrained == untrained]
        passes = [layer_pass(job, tokens) for job in of_subject]
        try:
            subject = subject_model(study, jobs[0].models, untrained)
            harvest_all(study, subject, tokens, passes)
        except UnusableInput as error:
            found |= {one.key: error for one in passes}
        else:
            skip_first = study.corpus.skip_first
            for one, job in zip(passes, of_subject, strict=True):
                made = kept_metadata(one, job) if one.kept else cache_metadata(one, tokens)
                found[one.key] = one.failure or made | proof_metadata(one, skip_first)
    return found


def harvest_all(study: Study, subject: SubjectModel, tokens: np.ndarray, passes: list[LayerPass]) -> None:
    """One pass over the corpus for all layers of one subject."""
    name = f"activation_cache[{', '.join(one.key for one in passes)}]"
    try:
        with Progress(name, tokens.size, "tokens") as progress:
            harvest(
                subject,
                tokens,
                passes,
                skip=study.corpus.left_out,
                batch_tokens=study.subject_model.batch_tokens,
                limits=study.proof_of_load,
                progress=progress,
            )
    finally:
        for one in passes:
            if one.writer is not None:
                one.writer.close()


def layer_pass(job: Job, tokens: np.ndarray) -> LayerPass:
    layer = job.study.layer(job.layer)

    def load_sae(subject: SubjectModel) -> SparseAutoencoder | Neurons:
        sae = sae_of(job.study, layer, job.models)
        if isinstance(layer.location, RandomSae) and layer.location.k is None:
            k = mean_l0_of(job.study, layer.location, layer.hookpoint, subject, tokens)
            return replace(layer.location, k=k).drawn(subject.device)
        return sae

    return LayerPass(
        key=layer.key,
        hookpoint=layer.hookpoint,
        writes=layer.writes,
        or_reads=layer.location.or_reads if isinstance(layer.location, SaeLocation) and layer.control is None else None,
        published_l0=layer.location.published_l0(),
        load_sae=load_sae,
        writer_for=lambda n_latents: CacheWriter(job.draft, n_latents),
        of_neurons=isinstance(layer.location, NeuronsOf),
        blocking=layer.control is None,
        kept=stored(job) is not None,
    )


def stored(job: Job) -> Partition | None:
    """What lies there for the fingerprint of now, where the proof of load alone is to be made anew."""
    return job.freshness.store.partition(job.asset.name, job.key, job.fingerprint.value)


def mean_l0_of(study: Study, random: RandomSae, hookpoint: str, subject: SubjectModel, tokens: np.ndarray) -> int:
    """How many latents of the real SAE fire on a token, on the tokens of the proof of load; at least 1."""
    few = tokens[: max(1, study.proof_of_load.tokens // tokens.shape[1])]
    skip, batch_tokens = study.corpus.left_out, study.subject_model.batch_tokens
    x = activations_at(subject, few, [hookpoint], skip, batch_tokens)[hookpoint]
    firing = read_sae(random.real, subject.device).encode(x).activations > 0
    return max(1, round(float(firing.sum(1).float().mean())))


def cache_metadata(one: LayerPass, tokens: np.ndarray) -> Metadata:
    if one.failure is not None:
        return {}
    assert one.writer is not None
    counts = one.writer.counts
    size = sum(
        (one.writer.draft.folder / name).stat().st_size for name in one.writer.draft.tables["activations"]["files"]
    )
    return {
        "tokens_used": int(tokens.size),
        "activations": int(counts.sum()),
        "bytes_per_activation": round(size / max(1, int(counts.sum())), 3),
        "latents": len(counts),
        "latents_that_never_fire": int((counts == 0).sum()),
    }


def kept_metadata(one: LayerPass, job: Job) -> Metadata:
    """What is known of activations that stay, which the draft takes over."""
    kept = stored(job)
    if one.failure is not None or kept is None:
        return {}
    job.draft.adopt_all(kept)
    made = {name: kept.metadata[name] for name in ("seconds", "why", "versions") if name in kept.metadata}
    return {"activations_made": made} | {name: value for name, value in kept.metadata.items() if name != "warning"}


def proof_metadata(one: LayerPass, skip_first: int) -> Metadata:
    if one.proof is None:
        return {}
    sink = one.proof.get("attention_sink") if one.blocking else None
    figures = {name: one.proof[name] for name in ("fvu", "dimension_fvu", "mean_l0")}
    return ({"warning": warning_of(sink, skip_first)} if sink else {}) | figures | {"proof": one.proof}


@computes("latent_statistics")
def latent_statistics(job: Job) -> Metadata:
    study = job.study
    cache = CacheReader(job.input("activation_cache"))
    tokens = tokens_matrix(job.input("corpus").read("corpus", ["tokens"]))
    sae = sae_of(study, study.layer(job.layer), job.models)
    wanted = pl.DataFrame({"inputs_hash": statistics_inputs(job, cache, sae.W_dec)}).with_row_index("latent")
    kept = still_hold(job.earlier(), "statistics", wanted, LATENT_STATISTICS)
    new = without(wanted, kept)
    drawn = pl.DataFrame(schema=LATENT_STATISTICS)
    if len(new):
        again = np.isin(np.arange(cache.n_latents), new["latent"].to_numpy())
        found = compute_statistics(cache, tokens, study.corpus.left_out, again)
        found = found.with_columns(**promoted_columns(job, sae.W_dec[torch.from_numpy(again)]))
        drawn = conform(found.with_columns(new["inputs_hash"]), LATENT_STATISTICS)
    table = pl.concat([kept, drawn]).sort("latent")
    job.draft.write("statistics", table)
    rates = table["firing_rate"].to_numpy()
    return {
        "latents": len(table),
        "latents_carried_over": len(kept),
        "dead": int(table["dead"].sum()),
        "median_firing_rate": float(np.median(rates)),
        "firing_rates": {"markdown": firing_rate_histogram(rates)},
    }


def statistics_inputs(inputs: Inputs, cache: CacheReader, W_dec: torch.Tensor) -> np.ndarray:
    """The inputs_hash of every latent, uint64 [n_latents]: of its activations, its decoder row, the text, the model."""
    parts = inputs.freshness.fingerprint(inputs.asset, inputs.key).parts
    tokens = inputs.input("corpus").tables["corpus"]["columns"]["tokens"]
    basis = inputs_hash(parts["settings"], parts["files"].get("subject_model"), tokens)
    rows = W_dec.float().cpu().contiguous().numpy()
    decoder = np.array([inputs_hash(row.tobytes()) for row in rows], dtype=np.uint64)
    return mixed(mixed(cache.entries_hash ^ np.uint64(basis)) ^ decoder)


def promoted_columns(job: Job, directions: torch.Tensor) -> dict[str, pl.Series]:
    """Promoted and suppressed tokens of each decoder direction, where the SAE writes into the residual stream."""
    study, layer = job.study, job.study.layer(job.layer)
    subject = subject_of(study, layer, job.models)
    if not subject.writes_to_residual_stream(layer.writes or layer.hookpoint, directions.shape[1]):
        return {}
    rendering, found = Rendering.of(study), subject.promoted_tokens(directions)

    def texts(indices: torch.Tensor) -> pl.Series:
        names = {token: rendering.output_name(token) for token in indices.unique().tolist()}
        return pl.Series([[names[token] for token in row] for row in indices.tolist()], dtype=pl.List(pl.String))

    return {
        "promoted_tokens": texts(found.promoted),
        "promoted_logits": pl.Series(found.promoted_logits.numpy()).arr.to_list(),
        "suppressed_tokens": texts(found.suppressed),
        "suppressed_logits": pl.Series(found.suppressed_logits.numpy()).arr.to_list(),
    }
