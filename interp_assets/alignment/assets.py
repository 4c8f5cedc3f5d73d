"""layer_matching: which latents of two layers belong together. semantic_overlap: whether they are explained alike."""

from __future__ import annotations

import resource

import numpy as np
import polars as pl

from interp_assets.activations.cache_file import CacheReader
from interp_assets.alignment.blocks import Blocks, digest
from interp_assets.alignment.correlations import Correlations, Firing
from interp_assets.alignment.directions import Similarities
from interp_assets.alignment.matching import best_matching
from interp_assets.alignment.measures import similarities_of, weights_of, without_direction
from interp_assets.alignment.outcome import Side, tables_of
from interp_assets.alignment.overlap import explained_alike
from interp_assets.examples.along import draws_of
from interp_assets.job import Job, Metadata, computes
from interp_assets.models import embedder
from interp_assets.partitions import layers_of_pair
from interp_assets.progress import Progress
from interp_assets.settings import Alignment
from resources.sparse_autoencoders.location import SaeLocation
from resources.sparse_autoencoders.read import read_sae
from resources.subject_model import pick_device


@computes("layer_matching")
def layer_matching(job: Job) -> Metadata:
    settings = job.study.alignment
    assert settings is not None
    pair = layers_of_pair(job.study, str(job.key))
    similarities, sides = (
        by_activations(job, settings, pair) if settings.similarity == "activations" else by_weights(job, settings, pair)
    )
    blocks = Blocks(job.label, job.draft.folder / "blocks").of(fingerprint_of(similarities))
    possible = all(len(side.latents) for side in sides)
    matching = best_matching(similarities, blocks) if possible else None
    tables = tables_of(similarities, matching, sides, blocks)
    for name, table in tables.items():
        job.draft.write(name, table)
    blocks.remove()
    metadata: Metadata = {
        "matched": len(tables["matching"]),
        "left_over": len(tables["left_over"]),
        "left_over_why": {
            "table": tables["left_over"].group_by("side", "reason", maintain_order=True).len("latents").to_dicts()
        },
    }
    if matching is None:
        empty = " and ".join(side.layer for side in sides if not len(side.latents))
        return metadata | {"nothing_matched": f"no latents to match in {empty}"}
    return metadata | {
        "mean_similarity": round(float(matching.similarity.mean()), 4),
        "mutual_nearest": int(tables["matching"]["mutual_nearest"].sum()),
        "total_cost": matching.total_cost,
        "certified_gap": matching.gap,
        "method": matching.method,
        "looks_for_better_pairs": matching.looks,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def fingerprint_of(similarities: Similarities) -> str:
    """A digest of similarities in which every latent has a part: one whose direction changed changes it."""
    rows, columns = similarities.shape
    if not rows or not columns:
        return ""
    number = np.arange(max(rows, columns))
    return digest(np.array([rows, columns]), similarities.exact(number % rows, number % columns))


@computes("semantic_overlap")
def semantic_overlap(job: Job) -> Metadata:
    settings = job.study.scorers.embedding
    assert settings is not None
    matched = job.input("layer_matching")
    matchings = {"optimal": matched.read("matching", ["latent_a", "latent_b"]), "greedy": matched.read("greedy")}
    columns = ["latent", "explainer", "explanation", "status"]
    pair = layers_of_pair(job.study, str(job.key))
    a, b = (job.input("explanations", layer).read("explanations", columns) for layer in pair)
    draws = draws_of(job, pair[0]), draws_of(job, pair[1])
    model = embedder(job.study, settings, job.models)

    def embed(texts: list[str]) -> np.ndarray:
        with Progress(f"{job.label}: explanations", model.new({"query": texts}), "texts") as progress:
            return model.embed(texts, progress.advance, "query")

    overlap, pairs = explained_alike(matchings, a, b, embed, job.study.examples.seed, draws)
    job.draft.write("overlap", overlap)
    job.draft.write("pairs", pairs)
    return {"overlap": {"table": overlap.to_dicts()}}


def by_weights(job: Job, settings: Alignment, pair: tuple[str, str]) -> tuple[Similarities, tuple[Side, Side]]:
    """Similarities of weights, and the latents that they are of."""
    weights, sides = [], []
    for layer in pair:
        location = job.study.layer(layer).location
        assert isinstance(location, SaeLocation), "controls are matched with nothing"
        rows = weights_of(read_sae(location), settings.similarity, layer)
        side = side_of(job, layer, len(rows[0]), "direction is zero", without_direction(rows, layer))
        weights.append([each[side.latents] for each in rows])
        sides.append(side)
    device = pick_device(settings.device)
    return similarities_of(weights[0], weights[1], settings.similarity, device), (sides[0], sides[1])


def by_activations(job: Job, settings: Alignment, pair: tuple[str, str]) -> tuple[Similarities, tuple[Side, Side]]:
    """Correlations of activations, and the latents that they are of."""
    contexts, length = job.input("corpus").tables["corpus"]["rows"], job.study.corpus.context_length
    firing, sides = [], []
    for layer in pair:
        cache = CacheReader(job.input("activation_cache", layer))
        found = Firing.of(cache, np.arange(cache.n_latents), contexts, length, job.study.corpus.left_out)
        side = side_of(job, layer, cache.n_latents, "its activation is always the same", ~found.varies)
        firing.append(found.subset(side.latents))
        sides.append(side)
    return Correlations(firing[0], firing[1]), (sides[0], sides[1])


def side_of(job: Job, layer: str, n_latents: int, reason: str, unusable: np.ndarray) -> Side:
    """
    Args:
        unusable: bool [n_latents], latents that cannot be compared, for a reason.
    """
    dead = np.zeros(n_latents, dtype=bool)
    assert job.study.alignment is not None
    if job.study.alignment.dead == "left_out":
        statistics = job.input("latent_statistics", layer).read("statistics", ["latent", "dead"])
        dead[statistics.filter(pl.col("dead"))["latent"].to_numpy()] = True
    left_out = {"dead": np.flatnonzero(dead), reason: np.flatnonzero(unusable & ~dead)}
    return Side(layer, np.flatnonzero(~dead & ~unusable), left_out)
