"""Marks mean what they say: identity settings decide fingerprints, operational ones never do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from interp_assets.settings import Controls, Settings, identity, mark
from interp_assets.settings.examples import LatentsAlong
from interp_assets.study import Layer, Study
from tests.changed_study import IDENTITY, OPERATIONAL

ENGINES = {"engines.oracle.kind", "engines.local.kind", "engines.served.kind"}
ONE_VALUE = ENGINES | {"explainers.llm.kind", "explainers.quotes.kind"}
"Another value is another class of settings."

# How the walk below names the members of mappings, lists and unions, and how the study above does.
NAMES = {"saes": "saes.0"}
KINDS = {
    "TransformersEngine": "engines.oracle",
    "VllmEngine": "engines.local",
    "OpenAIEngine": "engines.served",
    "ExtractiveExplainer": "explainers.quotes",
    "LlmExplainer": "explainers.llm",
}


def settings_in(annotation: Any) -> list[type[Settings]]:
    """Every class of settings that a type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for argument in get_args(annotation) for model in settings_in(argument)]


def classes(model: type[Settings]) -> set[type[Settings]]:
    inner = [each for field in model.model_fields.values() for each in settings_in(field.annotation)]
    return {model}.union(*map(classes, inner))


def unmarked(model: type[Settings]) -> list[str]:
    return [name for name, field in model.model_fields.items() if mark(field) not in ("identity", "operational")]


def leaves(model: type[Settings], key: str = "") -> Iterator[tuple[str, str | None]]:
    """Every setting that holds a value, by its dotted key, with its mark."""
    for name, field in model.model_fields.items():
        if field.exclude or field.annotation is Controls:  # they decide layers of their own: tried in test_controls
            continue
        full = f"{key}.{name}" if key else name
        # Draws along an alignment are tried in test_draws_along.
        inner = [each for each in settings_in(field.annotation) if each is not LatentsAlong]
        for each in inner:
            yield from leaves(each, KINDS.get(each.__name__) or NAMES.get(full, full))
        if not inner:
            yield full, mark(field)


PAIRS = {"alignment.similarity", "alignment.dead"}
"Decides what there is of two layers; tried in test_alignment."


def test_every_setting_is_marked() -> None:
    assert {Study, Layer} < classes(Study)
    assert len(classes(Study)) >= 15
    assert {model.__name__: unmarked(model) for model in classes(Study) if unmarked(model)} == {}


def test_control_an_unmarked_setting_is_noticed() -> None:
    class Careless(Settings):
        window: int = identity(32)
        stride: int = 16

    assert unmarked(Careless) == ["stride"]


def test_every_setting_is_tried_below() -> None:
    assert {key for key, marked in leaves(Study) if marked == "operational"} == set(OPERATIONAL)
    assert {key for key, marked in leaves(Study) if marked == "identity"} == set(IDENTITY) | ONE_VALUE | PAIRS
