"""What changing latents does to the subject model: how strongly to change them, what rises, what is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp_assets.scores.intervention.prompts import Prompts, token_ids, writing_seed
from interp_assets.scores.intervention.search import StrengthSearch
from interp_assets.settings import InterventionScorer
from interp_assets.settings.scorers import ZERO_ABLATION
from resources import interventions
from resources.latent_changes import Added, Change, TakenAway
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.sparse_autoencoders.controls import Neurons
from resources.subject_model import SubjectModel

Ids = list[int]


class Raised(NamedTuple):
    """A token that became more probable."""

    token: int
    increase: float
    "Of its probability."


class Written(NamedTuple):
    """How the model went on behind one prompt."""

    prompt: Ids
    clean: Ids
    changed: Ids


@dataclass
class Effect:
    """What one change of one latent did, or why it was not made."""

    latent: int
    condition: str
    strength: float | None = None
    kl: float | None = None
    "nats"
    out_of_reach: str | None = None
    shown: list[tuple[Ids, list[Raised]]] = field(default_factory=list)
    "For each explain prompt the tokens that rose most."
    written: list[Written] = field(default_factory=list)
    "For each score prompt."


@dataclass(frozen=True)
class Setup:
    """What the effects of a layer's latents are found with."""

    subject: SubjectModel
    sae: SparseAutoencoder | Neurons
    hookpoint: str
    writes: str | None
    "Of a transcoder: the hookpoint that its latents are added to."
    tokens: np.ndarray
    "uint32 [contexts, context_length]"
    bos: int | None
    "The corpus's BOS token, where its contexts begin with one."
    settings: InterventionScorer
    seed: int
    batch_tokens: int


def find_effects(setup: Setup, latents: Sequence[Prompts], begin_at: dict[int, float]) -> list[Effect]:
    """Every effect of some latents, which are run together; what is found for one does not depend on the others.

    Args:
        begin_at: for each latent the strength that is tried first.
    """
    found = added_effects(setup, latents, begin_at)
    return found + (ablated_effects(setup, latents) if setup.settings.zero_ablation else [])


def added_effects(setup: Setup, latents: Sequence[Prompts], begin_at: dict[int, float]) -> list[Effect]:
    batch = Batch(setup, latents, with_firing=False)
    directions = setup.sae.W_dec[batch.row_latents]

    def added(strengths: Sequence[float]) -> Added:
        return Added(batch.per_row(strengths), directions)

    clean = batch.run.next_token(added([0.0] * len(latents)))
    searches = [StrengthSearch(setup.settings.target_kl, begin_at[each.latent]) for each in latents]
    effects = {
        (each.latent, target): Effect(each.latent, f"{target:g}")
        for each in latents
        for target in setup.settings.target_kl
    }
    while any(search.strength is not None for search in searches):
        strengths = [search.strength or 0.0 for search in searches]
        logits = batch.run.next_token(added(strengths))
        for place, (each, search) in enumerate(zip(latents, searches, strict=True)):
            if search.strength is None:
                continue
            kl = batch.kl(clean, logits, place)
            for target in search.tell(kl):
                effect = effects[each.latent, target]
                effect.strength, effect.kl = strengths[place], kl
                effect.shown = batch.shown(clean, logits, place)
    for each, search in zip(latents, searches, strict=True):
        for target, reason in search.failed.items():
            effects[each.latent, target].out_of_reach = reason
    for target in setup.settings.target_kl:
        chosen = [effects[each.latent, target] for each in latents]
        batch.write(chosen, added([effect.strength or 0.0 for effect in chosen]), added([0.0] * len(latents)))
    return list(effects.values())


def ablated_effects(setup: Setup, latents: Sequence[Prompts]) -> list[Effect]:
    batch = Batch(setup, latents, with_firing=True)
    none = Added(batch.per_row([0.0] * len(latents)), setup.sae.W_dec[batch.row_latents])
    assert isinstance(setup.sae, SparseAutoencoder), "a study that takes latents away has no neurons"
    taken = TakenAway(setup.sae, batch.row_latents)
    clean, logits = batch.run.next_token(none), batch.run.next_token(taken)
    effects = [Effect(each.latent, ZERO_ABLATION) for each in latents]
    for place, effect in enumerate(effects):
        effect.kl = batch.kl(clean, logits, place)
        effect.shown = batch.shown(clean, logits, place)
    batch.write(effects, taken, none)
    return effects


class Batch:
    """The prompts of some latents, run together: of each latent first those to explain with, then those to score."""

    def __init__(self, setup: Setup, latents: Sequence[Prompts], with_firing: bool) -> None:
        self.setup, self.latents = setup, latents
        settings = setup.settings
        self.explain = settings.explain_prompts
        self.per_latent = settings.explain_prompts + settings.score_prompts
        self.ids = [token_ids(setup.tokens, place, setup.bos, with_firing) for each in latents for place in each.all]
        numbers = torch.tensor([each.latent for each in latents], device=setup.subject.device)
        self.row_latents = numbers.repeat_interleave(self.per_latent)
        "int64 [rows]"
        self.run = interventions.run_prompts(
            setup.subject,
            setup.hookpoint,
            self.ids,
            longest=settings.prompt_tokens + 2,  # BOS before it, the token that fires behind it
            new_tokens=settings.new_tokens,
            batch_tokens=setup.batch_tokens,
            writes=setup.writes,
        )
        self._clean: dict[int, Tensor] = {}

    def per_row(self, values: Sequence[float]) -> Tensor:
        """One value for each latent, to all of its rows; float32."""
        return torch.tensor(values, device=self.setup.subject.device).repeat_interleave(self.per_latent)

    def rows_of(self, place: int) -> slice:
        return slice(place * self.per_latent, (place + 1) * self.per_latent)

    def kl(self, clean: Tensor, changed: Tensor, place: int) -> float:
        """Mean over a latent's prompts of KL(clean || changed), in nats, from logits."""
        p, q = (logits[self.rows_of(place)].log_softmax(-1) for logits in (clean, changed))
        return float((p.exp() * (p - q)).sum(-1).mean())

    def shown(self, clean: Tensor, changed: Tensor, place: int) -> list[tuple[Ids, list[Raised]]]:
        rows = range(place * self.per_latent, place * self.per_latent + self.explain)
        rise = changed[rows.start : rows.stop].softmax(-1) - clean[rows.start : rows.stop].softmax(-1)
        best = rise.topk(self.setup.settings.shown_tokens, dim=-1)
        return [
            (self.ids[row], [Raised(*each) for each in zip(tokens, increases, strict=True)])
            for row, tokens, increases in zip(rows, best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def write(self, effects: Sequence[Effect], change: Change, clean: Change) -> None:
        """Let the model go on behind the score prompts of those effects that were reached, with and without them."""
        rows = [
            row
            for place, effect in enumerate(effects)
            if effect.out_of_reach is None
            for row in range(self.per_latent)[self.explain :]
            for row in [place * self.per_latent + row]
        ]
        if not rows:
            return
        seeds = [writing_seed(self.setup.seed, each.latent, place) for each in self.latents for place in each.all]
        which = torch.tensor(rows, device=self.setup.subject.device)
        own, count = [seeds[row] for row in rows], self.setup.settings.new_tokens
        new = [row for row in rows if row not in self._clean]
        if new:
            fresh = torch.tensor(new, device=which.device)
            written = self.run.rows(fresh).write(clean.rows(fresh), [seeds[row] for row in new], count)
            self._clean |= dict(zip(new, written, strict=True))
        changed = self.run.rows(which).write(change.rows(which), own, count)
        for row, written in zip(rows, changed, strict=True):
            effect = effects[row // self.per_latent]
            effect.written.append(Written(self.ids[row], self._clean[row].tolist(), written.tolist()))
