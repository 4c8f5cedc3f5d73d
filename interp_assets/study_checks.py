"""Whether the settings of a study fit each other, and whether what they name is there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from interp_assets.corpus.files import kind_of, why_not_read
from interp_assets.layers import names_control
from interp_assets.partitions import layer_pairs
from interp_assets.setting_errors import StudyError, first_twice, listed
from interp_assets.settings import (
    EFFECT_EXPLAINER,
    NO_EXPLAINER,
    EmbedderSettings,
    JudgeScorer,
    LocalModel,
    OpenAIEngine,
    WindowScorer,
)

if TYPE_CHECKING:
    from interp_assets.study import Study


def check_settings(study: Study) -> None:
    """What can be told before the SAEs are looked at.

    Raises:
        StudyError: of the first setting that cannot be, with its key and what is allowed.
    """
    check_names(study)
    check_bounds(study)
    check_addresses(study)
    check_requests(study)
    check_files(study)


def check_layers(study: Study) -> None:
    """
    Raises:
        StudyError: of layers that are there twice, or pairs of layers that are not there.
    """
    check_keys(study)
    check_pairs(study)
    check_draws(study)


def check_names(study: Study) -> None:
    """Engines and explainers that are referred to exist; labels and names are free, and stand in a list once."""
    for i, source in enumerate(study.saes):
        if source.label is not None and names_control(source.label):
            raise StudyError(f"saes[{i}].label: {source.label!r} names a control; take a label that is none of them")
        if (hookpoint := first_twice(source.hookpoints or ())) is not None:
            raise StudyError(f"saes[{i}].hookpoints: {hookpoint!r} stands there twice; leave one out")
    for name in (NO_EXPLAINER, EFFECT_EXPLAINER):
        if name in study.explainers:
            raise StudyError(f"explainers.{name}: the tables call something else {name!r}; give it another name")
    for section, settings in (("explainers", study.explainers), ("scorers", study.scorers.chosen())):
        for name, item in settings.items():
            for key in ("engine", "explainer", "scorer"):
                engine = getattr(item, key, None)
                if engine is not None and engine not in study.engines:
                    raise StudyError(
                        f"{section}.{name}.{key}: {engine!r} is not under engines; {listed(study.engines)}"
                    )
    for name, scorer in study.scorers.chosen().items():
        chosen = getattr(scorer, "explainers", None) or ()
        if (explainer := first_twice(chosen)) is not None:
            raise StudyError(f"scorers.{name}.explainers: {explainer!r} stands there twice; leave one out")
        for explainer in chosen:
            if explainer not in study.explainers:
                allowed = listed(study.explainers)
                raise StudyError(f"scorers.{name}.explainers: {explainer!r} is not under explainers; {allowed}")


def check_bounds(study: Study) -> None:
    """Settings that bound each other."""
    for name, scorer in study.scorers.chosen().items():
        for kind in ("activating", "non_activating"):
            wanted, drawn = getattr(scorer, kind, 0), getattr(study.examples.test, kind)
            if wanted > drawn:
                raise StudyError(f"scorers.{name}.{kind}: {wanted} is more than examples.test.{kind}, {drawn}")
        if isinstance(scorer, WindowScorer):
            check_negatives(study, name, scorer)
        if isinstance(scorer, JudgeScorer) and scorer.sequential and scorer.protocol != "single":
            raise StudyError(
                f"scorers.{name}.sequential: it needs protocol single, where each answer stands for itself"
            )
    if "similar_text" in study.examples.test.kinds and study.examples.similar_text is None:
        raise StudyError(
            "examples.similar_text: missing; negatives of the kind similar_text need an embedder there, "
            "as in {model: owner/model, windows: 20000}"
        )
    length = study.corpus.context_length
    if study.corpus.left_out >= length:
        skipped = study.corpus.skip_first
        raise StudyError(f"corpus.skip_first: {skipped} leaves nothing of corpus.context_length, {length}")
    if study.examples.window > length:
        raise StudyError(f"examples.window: {study.examples.window} is more than corpus.context_length, {length}")
    intervention = study.scorers.intervention
    if intervention is not None and (target := first_twice(intervention.conditions)) is not None:
        raise StudyError(f"scorers.intervention.target_kl: two are called {target} in the tables; leave one out")
    if intervention is not None and intervention.prompt_tokens > length:
        tokens = intervention.prompt_tokens
        raise StudyError(f"scorers.intervention.prompt_tokens: {tokens} is more than corpus.context_length, {length}")
    if intervention is not None and intervention.zero_ablation and study.controls.neurons is not None:
        raise StudyError(
            "scorers.intervention.zero_ablation: neurons can be strengthened, not taken away; "
            "set it to false or leave out controls.neurons"
        )
    if study.corpus.tokens < length:
        tokens = study.corpus.tokens
        raise StudyError(f"corpus.tokens: {tokens} is less than one context of corpus.context_length, {length}")


def check_negatives(study: Study, name: str, scorer: WindowScorer) -> None:
    """A scorer asks about negatives that are drawn, and about no more of them than there are."""
    test, wanted = study.examples.test, study.negatives_of(scorer)
    if missing := [kind for kind in wanted if kind not in test.kinds]:
        drawn = listed(test.kinds)
        raise StudyError(f"scorers.{name}.negatives: {missing[0]!r} is not under examples.test.negatives; {drawn}")
    if scorer.non_activating > (drawn_of := test.drawn_of(wanted)):
        raise StudyError(
            f"scorers.{name}.non_activating: {scorer.non_activating} is more than the {drawn_of} of kind "
            f"{', '.join(wanted)} that examples.test.non_activating, {test.non_activating}, leaves for each latent"
        )


def check_addresses(study: Study) -> None:
    """Nothing is sent readably over a network unless the study says so."""
    for name, engine in study.engines.items():
        if isinstance(engine, OpenAIEngine) and not (engine.allow_plain_http or is_private(engine.base_url)):
            raise StudyError(
                f"engines.{name}.base_url: {engine.base_url}: plain http to another machine shows prompts and the key; "
                f"use https, or set allow_plain_http: true"
            )


def check_requests(study: Study) -> None:
    """What a study adds to requests leaves alone what decides the replies elsewhere."""
    for name, engine in study.engines.items():
        if isinstance(engine, OpenAIEngine) and (own := sorted(engine.own_fields & set(engine.request or {}))):
            raise StudyError(f"engines.{name}.request: {', '.join(own)}: set by the engine itself; leave it out")


def is_private(url: str) -> bool:
    """Whether others cannot read along: it is encrypted, or leads to this machine."""
    address = urlsplit(url)
    host = address.hostname or ""
    return (
        address.scheme == "https" or host in ("localhost", "::1") or bool(re.fullmatch(r"127(\.[0-9]{1,3}){3}", host))
    )


def looks_local(path: str) -> bool:
    return path.startswith(("/", ".", "~"))


def check_files(study: Study) -> None:
    """Folders and files that are referred to exist; hub names are looked up when they are needed."""
    models = [("subject_model.path", study.subject_model.path)]
    for name, engine in study.engines.items():
        if isinstance(engine, LocalModel):
            models.append((f"engines.{name}.path", engine.path))
    for name, scorer in study.scorers.chosen().items():
        if isinstance(scorer, EmbedderSettings):
            models.append((f"scorers.{name}.model", scorer.model))
    if study.examples.similar_text is not None:
        models.append(("examples.similar_text.model", study.examples.similar_text.model))
    for key, value in models:
        if study.local_folder(value) is None and (looks_local(value) or value.count("/") != 1):
            folder = study.path(value)
            raise StudyError(f"{key}: {value}: no such folder ({folder}), and not a hub name like owner/model")
    corpus = study.corpus.path
    file = study.path(corpus)
    if file.exists() and (why := why_not_read(file)) is not None:
        raise StudyError(f"corpus.path: {corpus}: {why}")
    if not file.exists() and (kind_of(file) is not None or looks_local(corpus)):
        raise StudyError(f"corpus.path: {corpus}: no such file ({file})")


def check_keys(study: Study) -> None:
    if (doubled := first_twice(layer.key for layer in study.layers)) is not None:
        raise StudyError(f"saes: {doubled} appears twice; give one of the sources a label")


def check_pairs(study: Study) -> None:
    known = [layer.key for layer in study.layers if layer.control is None]
    pairs = (study.alignment.pairs if study.alignment else None) or ()
    for i, pair in enumerate(pairs):
        for key in pair:
            if key not in known:
                raise StudyError(f"alignment.pairs[{i}]: no layer {key!r}; {listed(known)}")
        if pair[0] == pair[1]:
            raise StudyError(f"alignment.pairs[{i}]: {pair[0]} is matched with another layer, not with itself")
        if pair in pairs[:i]:
            raise StudyError(f"alignment.pairs[{i}]: {', '.join(pair)} stand there twice; leave one out")


def check_draws(study: Study) -> None:
    """Latents are drawn along an alignment that matches something."""
    if not study.examples.along_alignment:
        return
    if study.alignment is None:
        raise StudyError(
            "examples.latents.along: this study has no alignment; add `alignment: {}`, which matches neighbouring layers, "
            "or give examples.latents a number alone"
        )
    if not layer_pairs(study):
        known = listed(layer.key for layer in study.layers if layer.control is None)
        raise StudyError(
            "examples.latents.along: no two layers of this study are neighbours, so nothing is matched; name pairs of "
            f"layers in alignment.pairs, or give examples.latents a number alone; {known}"
        )
