"""Intervening on latents of SmolLM2 layer 9, beside a plain loop: a full forward pass for every prompt, change and token.

Both follow the same protocol on the same prompts, in float32, and must come to the same strengths and the same texts.
Beside them, transformers' own `generate` writes as many tokens behind the same prompts, nothing changed and nothing searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import quick, seconds, show
from interp_assets.activations.cache_file import Entries
from interp_assets.activations.harvest import as_ids, entries_of
from interp_assets.corpus.contexts import documents, pack, tokens_matrix
from interp_assets.progress import Progress
from interp_assets.scores.intervention.effects import Effect, Setup, Written, find_effects
from interp_assets.scores.intervention.prompts import Prompts, TooFewPrompts, choose_prompts, token_ids, writing_seed
from interp_assets.scores.intervention.search import StrengthSearch
from interp_assets.settings import InterventionScorer
from interp_assets.study import PROJECT, load_study
from resources.sparse_autoencoders.read import read_sae
from resources.subject_model import SubjectModel
from resources.tokenizers import load_tokenizer, vocabulary_size

HOOKPOINT, SEED, BEGIN_AT = "layers.9", 0, 20.0


class Size(NamedTuple):
    tokens: int
    latents: int
    settings: dict[str, Any]


QUICK = Size(2_048, 4, {"explain_prompts": 1, "score_prompts": 2, "target_kl": (1.0,)})
FULL = Size(65_536, 4, {})


def main() -> None:
    size = QUICK if quick() else FULL
    torch.set_num_threads(1)  # two threads that wait for a busy machine take many times as long, both ways
    setup, latents = prepare(size)
    begin_at = {each.latent: BEGIN_AT for each in latents}
    find_effects(setup, latents[:1], begin_at)
    found: list[Effect] = []
    project = seconds(lambda: found.extend(find_effects(setup, latents, begin_at))) / len(latents)
    written = sum(len(effect.written) for effect in found if effect.latent == latents[0].latent)
    generation = plain_generation(setup, latents[0], written + setup.settings.score_prompts)
    show("latents", len(latents))
    show("prompts_per_latent", len(latents[0].all))
    show("changes_per_latent", len(setup.settings.target_kl))
    show("project_seconds_per_latent", project)
    show("plain_generation_seconds_of_as_many_tokens", generation)
    show("project_over_plain_generation_ratio", project / generation)
    loop = FullPasses(setup, latents[0])
    plain: list[Effect] = []
    reference = seconds(lambda: plain.extend(loop.effects()))
    agree([effect for effect in found if effect.latent == latents[0].latent], plain)
    show("reference_full_passes", loop.passes)
    show("reference_seconds_per_latent", reference)
    show("reference_over_project_ratio", reference / project)


def prepare(size: Size) -> tuple[Setup, list[Prompts]]:
    """The demo's model, SAE and text, and the first latents that have enough prompts."""
    study = load_study(PROJECT / "studies" / "smollm2_demo.yaml")
    path, layer = study.path(study.subject_model.path), study.layer(HOOKPOINT)
    corpus = study.corpus.model_copy(update={"tokens": size.tokens})
    texts = documents(corpus, study.path(corpus.path))
    tokens = tokens_matrix(pack(texts, load_tokenizer(path), corpus, vocabulary_size(path), Progress("", 1, "")))
    subject, sae = SubjectModel(path, None, "float32", "cpu"), read_sae(layer.location)
    parts = []
    for start in range(0, len(tokens), 16):
        seen = subject.activations(as_ids(tokens[start : start + 16]), [HOOKPOINT])[HOOKPOINT]
        parts.append(entries_of(sae.encode(seen[:, 1:].flatten(0, 1)), start, tokens.shape[1] - 1, 1))
    entries = Entries(*map(np.concatenate, zip(*parts, strict=True)))
    settings = InterventionScorer(explainer="none", scorer="none", **size.settings)
    latents: list[Prompts] = []
    for latent in range(sae.n_latents):
        mine = Entries(*(column[entries.latent == latent] for column in entries))
        try:
            latents.append(choose_prompts(mine, tokens.shape[1], settings, SEED))
        except TooFewPrompts:
            continue
        if len(latents) == size.latents:
            break
    bos = int(tokens[0, 0])
    return Setup(subject, sae, HOOKPOINT, None, tokens, bos, settings, SEED, study.subject_model.batch_tokens), latents


def plain_generation(setup: Setup, latent: Prompts, texts: int) -> float:
    """Seconds in which transformers' own `generate` writes so many texts of the same length behind the same prompts."""
    prompts = [token_ids(setup.tokens, place, setup.bos) for place in latent.score]
    prompts = [prompts[i % len(prompts)] for i in range(texts)]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(each)) + each for each in prompts])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts])
    model, count = setup.subject.model, setup.settings.new_tokens

    def write() -> None:
        for start in range(0, texts, setup.settings.score_prompts):
            part = slice(start, start + setup.settings.score_prompts)
            model.generate(
                ids[part], attention_mask=mask[part], do_sample=True, min_new_tokens=count, max_new_tokens=count
            )

    return seconds(write)


class FullPasses:
    """The reference: one latent by passes over whole texts, one text at a time, with a hook and no cache."""

    def __init__(self, setup: Setup, latent: Prompts) -> None:
        self.setup, self.latent, self.passes = setup, latent, 0

    def effects(self) -> list[Effect]:
        prompts = [token_ids(self.setup.tokens, place, self.setup.bos) for place in self.latent.all]
        seeds = [writing_seed(SEED, self.latent.latent, place) for place in self.latent.all]
        clean = [self.log_probabilities(ids, len(ids), 0.0) for ids in prompts]
        targets = self.setup.settings.target_kl
        search = StrengthSearch(targets, BEGIN_AT)
        found = {target: Effect(self.latent.latent, f"{target:g}") for target in targets}
        while (strength := search.strength) is not None:
            moved = [self.log_probabilities(ids, len(ids), strength) for ids in prompts]
            kl = float(np.mean([float((p.exp() * (p - q)).sum()) for p, q in zip(clean, moved, strict=True)]))
            for target in search.tell(kl):
                found[target].strength, found[target].kl = strength, kl
        first = self.setup.settings.explain_prompts
        written = [self.write(ids, 0.0, seed) for ids, seed in zip(prompts[first:], seeds[first:], strict=True)]
        for effect in found.values():
            for ids, seed, text in zip(prompts[first:], seeds[first:], written, strict=True):
                changed = self.write(ids, effect.strength or 0.0, seed)
                effect.written.append(Written(ids, text, changed))
        return list(found.values())

    def write(self, ids: Sequence[int], strength: float, seed: int) -> list[int]:
        noise, text = torch.Generator().manual_seed(seed), list(ids)
        for _ in range(self.setup.settings.new_tokens):
            log_probabilities = self.log_probabilities(text, len(ids), strength)
            drawn = torch.empty(len(log_probabilities)).exponential_(generator=noise)
            text.append(int((log_probabilities - drawn.log()).argmax()))
        return text[len(ids) :]

    @torch.inference_mode()
    def log_probabilities(self, text: Sequence[int], prompt: int, strength: float) -> Tensor:
        """Of the token behind a text whose first `prompt` tokens are the prompt; float32 [vocabulary]."""
        self.passes += 1
        direction = self.setup.sae.W_dec[self.latent.latent]

        def hook(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
            output[:, prompt - 1 :] += strength * direction
            return output

        subject = self.setup.subject
        handle = subject.modules[HOOKPOINT].register_forward_hook(hook)
        try:
            logits = subject.model(torch.tensor([text]), use_cache=False, logits_to_keep=1).logits
        finally:
            handle.remove()
        return logits[0, -1].float().log_softmax(-1)


def agree(found: Sequence[Effect], plain: Sequence[Effect]) -> None:
    """What is fast must also be right."""
    for ours, theirs in zip(found, plain, strict=True):
        assert ours.strength is not None and ours.kl is not None
        assert theirs.strength is not None and theirs.kl is not None
        np.testing.assert_allclose(ours.strength, theirs.strength, rtol=1e-3)
        np.testing.assert_allclose(ours.kl, theirs.kl, rtol=1e-3)
        assert ours.written == theirs.written


if __name__ == "__main__":
    main()
