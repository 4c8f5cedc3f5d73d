"""One forward pass over the corpus that fills the activation caches of several layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_assets.activations.cache_file import CacheWriter, Entries
from interp_assets.activations.misreadings import TOKENS_TO_COMPARE
from interp_assets.activations.proof_of_load import ProofFailed, compare_layers, out_of_range, prove
from interp_assets.progress import Progress
from interp_assets.settings import ProofOfLoad
from resources.errors import UnusableInput
from resources.model_structure import NoSuchHookpoint
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder, TopActivations
from resources.sparse_autoencoders.controls import Neurons
from resources.subject_model import SubjectModel, context_batches


@dataclass
class LayerPass:
    """One layer of the pass: what it reads, with which SAE, and where its activations go."""

    key: str
    hookpoint: str
    published_l0: float | None
    load_sae: Callable[[SubjectModel], SparseAutoencoder | Neurons]
    writer_for: Callable[[int], CacheWriter]
    "Gives the writer, once the number of latents is known."
    writes: str | None = None
    "Of a transcoder: the hookpoint that it reconstructs."
    or_reads: str | None = None
    "Another hookpoint that the SAE's files may mean: the proof of load tries it too."
    of_neurons: bool = False
    "The hookpoint is a decoder layer; what goes into the down projection of its MLP is read."
    blocking: bool = True
    "Whether a failed proof of load stops it. For controls it is recorded: they are not meant to explain much."
    kept: bool = False
    "Its activations lie there already: the proof of load is all that is made."
    sae: SparseAutoencoder | Neurons | None = None
    writer: CacheWriter | None = None
    proof: dict[str, Any] | None = None
    failure: UnusableInput | None = None


def harvest(
    subject: SubjectModel,
    tokens: np.ndarray,
    layers: list[LayerPass],
    *,
    skip: int,
    batch_tokens: int,
    limits: ProofOfLoad,
    progress: Progress,
) -> None:
    """Fill the cache of each layer; a layer that fails carries its `failure`, and the others go on.

    Args:
        tokens: uint32 [contexts, context_length].
        skip: positions at the beginning of each context, BOS among them; what latents do there is dropped.
    """
    for layer in layers:
        with failing_alone(layer):
            if layer.of_neurons:
                layer.hookpoint = f"{subject.down_projection(layer.hookpoint)}:in"
            for hookpoint in (layer.hookpoint, layer.writes, layer.or_reads):
                if hookpoint is not None:
                    subject.check_hookpoint(hookpoint)
            layer.sae = layer.load_sae(subject)
    fail_unreadable(subject, tokens, layers)
    prove_all(subject, tokens[: max(1, limits.tokens // tokens.shape[1])], layers, skip, batch_tokens, limits)
    for batch in context_batches(tokens, batch_tokens):
        running = [layer for layer in layers if layer.failure is None and not layer.kept]
        if not running:
            return
        seen = subject.activations(as_ids(tokens[batch]), [layer.hookpoint for layer in running])
        for layer in running:
            with failing_alone(layer):
                assert layer.sae is not None and layer.writer is not None
                x = seen[layer.hookpoint][:, skip:].flatten(0, 1)
                top = layer.sae.encode(x)
                check_finite(layer.hookpoint, x, top, batch.start, tokens.shape[1] - skip, skip)
                layer.writer.append(entries_of(top, batch.start, tokens.shape[1] - skip, skip))
        progress.advance(tokens[batch].size)
    for layer in layers:
        if layer.failure is None and layer.writer is not None:
            layer.writer.finish()


def fail_unreadable(subject: SubjectModel, tokens: np.ndarray, layers: list[LayerPass]) -> None:
    """A hookpoint at which no vectors stand fails its own layer, before it could stop the pass of all."""
    sound = [layer for layer in layers if layer.failure is None]
    places = dict.fromkeys(place for layer in sound for place in (layer.hookpoint, layer.writes) if place)
    few = np.repeat(tokens[:1, :8], 2, axis=0)
    problems = subject.unreadable(as_ids(few), list(places)) if places else {}
    for layer in sound:
        for place in (layer.hookpoint, layer.writes):
            if place in problems:
                layer.failure = NoSuchHookpoint(problems[place])


class failing_alone:
    """Whatever is wrong with one layer's input is kept on that layer."""

    def __init__(self, layer: LayerPass) -> None:
        self.layer = layer

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, UnusableInput):
            self.layer.failure = error
            return True
        return False


def prove_all(
    subject: SubjectModel,
    tokens: np.ndarray,
    layers: list[LayerPass],
    skip: int,
    batch_tokens: int,
    limits: ProofOfLoad,
) -> None:
    """The proof of load of every layer, on a few thousand tokens."""
    sound = [layer for layer in layers if layer.failure is None]
    places = [place for layer in sound for place in (layer.hookpoint, layer.writes, layer.or_reads) if place]
    own = activations_at(subject, tokens, places, skip, batch_tokens)
    few = tokens[: max(1, TOKENS_TO_COMPARE // tokens.shape[1])]
    compared = [layer for layer in sound if layer.blocking and limits.compare_layers]
    wanted = [place for layer in compared for pair in same_elsewhere(layer, subject) for place in pair]
    elsewhere = activations_at(subject, few, wanted, skip, batch_tokens)
    with Progress("proof of load", len(sound), "layers") as progress:
        for layer in sound:
            prove_one(layer, subject, own, elsewhere, tokens.shape[1] - skip, limits)
            progress.advance(1)


def same_elsewhere(layer: LayerPass, subject: SubjectModel) -> list[tuple[str, str]]:
    """What a layer reads and writes, and the same in other layers of the model."""
    writes = layer.writes or layer.hookpoint
    others = subject.same_place_elsewhere(layer.hookpoint), subject.same_place_elsewhere(writes)
    if len(others[0]) != len(others[1]):
        return [(layer.hookpoint, writes)]
    return [(layer.hookpoint, writes), *zip(*others, strict=True)]


def prove_one(
    layer: LayerPass,
    subject: SubjectModel,
    own: dict[str, Tensor],
    elsewhere: dict[str, Tensor],
    tokens_per_context: int,
    limits: ProofOfLoad,
) -> None:
    with failing_alone(layer):
        assert layer.sae is not None
        try:
            layer.proof = prove(
                layer.sae,
                own[layer.hookpoint],
                layer.hookpoint,
                layer.published_l0,
                limits,
                target=own[layer.writes] if layer.writes else None,
                writes=layer.writes,
                tokens_per_context=tokens_per_context,
                or_reads=(layer.or_reads, own[layer.or_reads]) if layer.or_reads else None,
            )
        except ProofFailed as failed:
            # Another layer may fit where this one does not: then that is what is said.
            if not failed.measured or (layer.blocking and not limits.compare_layers):
                raise
            layer.proof = failed.details["proof"] | ({} if layer.blocking else {"would_fail": str(failed)})
        if limits.compare_layers and layer.blocking:
            pairs = same_elsewhere(layer, subject)
            places, targets = ({pair[0]: elsewhere[pair[i]] for pair in pairs} for i in (0, 1))
            compare_layers(layer.sae, layer.hookpoint, places, layer.proof, limits, targets)
        if not layer.kept:
            layer.writer = layer.writer_for(layer.sae.n_latents)


def activations_at(
    subject: SubjectModel, tokens: np.ndarray, hookpoints: list[str], skip: int, batch_tokens: int
) -> dict[str, Tensor]:
    """Activations [tokens, d] at each hookpoint, all in memory: for a few thousand tokens."""
    parts: dict[str, list[Tensor]] = {name: [] for name in hookpoints}
    for batch in context_batches(tokens, batch_tokens) if hookpoints else ():
        for name, x in subject.activations(as_ids(tokens[batch]), list(parts)).items():
            parts[name].append(x[:, skip:].flatten(0, 1))
    return {name: torch.cat(found) for name, found in parts.items()}


def as_ids(tokens: np.ndarray) -> Tensor:
    return torch.from_numpy(tokens.astype(np.int64))


class NotFinite(UnusableInput):
    """The subject model, or the SAE on what it holds, leaves the range of its numbers on some tokens."""


def check_finite(
    hookpoint: str, x: Tensor, top: TopActivations, first_context: int, tokens_per_context: int, skip: int
) -> None:
    """
    Args:
        x: what stands at the hookpoint, [tokens, d_in] of a batch of whole contexts.

    Raises:
        NotFinite: some of it, or what fires on it, is NaN or infinite; it would be lost as if nothing fired there.
    """
    finite = torch.isfinite(x).all(1) & torch.isfinite(top.activations).all(1)
    if finite.all():
        return
    bad = torch.nonzero(~finite).squeeze(1)
    context, position = divmod(int(bad[0]), tokens_per_context)
    raise NotFinite(
        f"{hookpoint} holds values that are NaN or infinite on {len(bad):,} of the {len(x):,} tokens from context "
        f"{first_context:,} on, first on token {position + skip} of context {first_context + context:,}; "
        f"no such token was among those of the proof of load{out_of_range(x)}"
    )


def entries_of(top: TopActivations, first_context: int, tokens_per_context: int, skip: int) -> Entries:
    """What fires, as cache entries: token rows of the batch become context and position."""
    firing = torch.nonzero(top.activations.flatten() > 0).squeeze(1)
    token = (firing // top.activations.shape[1]).cpu().numpy()
    return Entries(
        latent=top.indices.flatten()[firing].cpu().numpy().astype(np.uint32),
        context=(first_context + token // tokens_per_context).astype(np.uint32),
        position=(token % tokens_per_context + skip).astype(np.uint16),
        activation=top.activations.flatten()[firing].float().cpu().numpy(),
    )
