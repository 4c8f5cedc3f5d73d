"""Which SAEs a study names, and where they lie. One that is not there, or is none, stops its own layer only."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp_assets.layers import Layer, MissingSae
from interp_assets.model_names import model_type_of
from interp_assets.saes_from_hub import not_fetched, sae_folder
from interp_assets.setting_errors import StudyError, listed
from interp_assets.settings import SaeSource
from resources.errors import NotNow, UnusableInput
from resources.hookpoints import hookpoint_of
from resources.hub import cached, fetch, repository_of
from resources.sparse_autoencoders.config import read_config
from resources.sparse_autoencoders.locate import locate, looks_like_module
from resources.sparse_autoencoders.location import SaeLocation

if TYPE_CHECKING:
    from interp_assets.study import Study

Found = list[tuple[str, SaeLocation | MissingSae]]
"SAEs by hookpoint."


def find_layers(study: Study, get: bool = False) -> tuple[Layer, ...]:
    """
    Args:
        get: fetch from the hub what is not here.

    Raises:
        StudyError: it cannot be told which layers there are, or none of them has an SAE.
    """
    layers: list[Layer] = []
    model = settings_of_model(study, get)
    for i, source in enumerate(study.saes):
        for hookpoint, place in saes_of(f"saes[{i}]", study, source, model, get):
            key = f"{hookpoint}@{source.label}" if source.label else hookpoint
            writes = place.writes if isinstance(place, SaeLocation) else None
            layers.append(Layer(key=key, hookpoint=hookpoint, writes=writes, location=place))
    missing = [layer.location for layer in layers if isinstance(layer.location, MissingSae)]
    if missing and len(missing) == len(layers):
        raise StudyError(missing[0].problem)
    return tuple(layers)


def settings_of_model(study: Study, get: bool = False) -> dict[str, Any] | None:
    """The settings of the subject model, where they are here: by them names of hooks are understood.

    What is wrong with them is said where the model is loaded.

    Args:
        get: fetch them from the hub where they are not here.
    """
    folder = study.local_folder(study.subject_model.path)
    if folder is not None:
        with suppress(UnusableInput, OSError):
            return read_config(folder / "config.json")
    return hub_settings(study.subject_model.path, study.subject_model.revision, get)


def hub_settings(name: str, revision: str | None, get: bool) -> dict[str, Any] | None:
    """The settings of a model that is named on the hub; of a well-known one its type at least, though it is not here."""
    if repository_of(name) is None:
        return None
    here = cached(name, revision)
    if here is None and get:
        with suppress(NotNow):
            here = fetch(name, revision, ["config.json", "tokenizer_config.json"])
    if here is not None:
        with suppress(UnusableInput, OSError):
            return read_config(here.folder / "config.json")
    known = model_type_of(name)
    return {"model_type": known} if known else None


def saes_of(key: str, study: Study, source: SaeSource, model: Mapping[str, Any] | None, get: bool) -> Found:
    """The SAEs of a source: those it names, or all.

    Args:
        model: settings of the subject model.
    """
    try:
        named = source.hookpoints and tuple(hookpoint_of(each, model) for each in source.hookpoints)
    except UnusableInput as error:
        raise StudyError(f"{key}.hookpoints: {error}") from None
    problems: dict[Path, str] = {}
    try:
        folder = sae_folder(study, source.path, source.revision, named or (), get, model)
        found = locate(folder, source.format, model, problems)
    except (UnusableInput, NotNow) as error:
        problem = f"{key}.path: {error}"
        if named is None:
            raise StudyError(problem) from None
        return [(hookpoint, MissingSae(problem)) for hookpoint in named]
    missing = {place.name: MissingSae(f"{key}.path: {problem}") for place, problem in problems.items()}
    later = not_fetched(study, source.path, source.revision, model)
    elsewhere = {hookpoint: MissingSae(f"{key}.path: {problem}") for hookpoint, problem in later.items()}
    if named is not None:
        return wanted_saes(f"{key}.hookpoints", source, named, found, missing, elsewhere)
    if nameless := [each for name, each in missing.items() if not looks_like_module(name)]:
        raise StudyError(nameless[0].problem)
    return [*all_saes(f"{key}.hookpoints", source, found), *missing.items(), *elsewhere.items()]


def all_saes(key: str, source: SaeSource, found: list[SaeLocation]) -> Found:
    unnamed = [place.path.name for place in found if place.hookpoint is None]
    if unnamed:
        raise StudyError(
            f"{key}: missing; the files of {', '.join(unnamed)} in {source.path} do not say what it reads, so name it here, "
            f"as in hookpoints: [layers.10]"
            + ("" if len(found) == 1 else ", with one entry under saes for each such folder")
        )
    return wanted_saes(key, source, tuple(dict.fromkeys(str(place.hookpoint) for place in found)), found, {}, {})


def other_side(place: SaeLocation) -> SaeLocation:
    """An SAE at the other place that its files may mean."""
    return place._replace(hookpoint=place.or_reads, or_reads=place.hookpoint)


def wanted_saes(
    key: str,
    source: SaeSource,
    hookpoints: tuple[str, ...],
    found: list[SaeLocation],
    missing: Mapping[str, MissingSae],
    elsewhere: Mapping[str, MissingSae],
) -> Found:
    """
    Args:
        missing: by the names of their folders, what ought to be SAEs.
        elsewhere: by hookpoint, what is on the hub and not here.
    """
    if len(found) + len(missing) == 1 and (not found or found[0].hookpoint is None) and source.hookpoints is not None:
        if len(hookpoints) > 1:
            raise StudyError(f"{key}: {list(hookpoints)} are {len(hookpoints)} places for the one SAE in {source.path}")
        if not found:
            return [(hookpoints[0], next(iter(missing.values())))]
        try:
            place = found[0].at(hookpoints[0])
        except UnusableInput as error:
            raise StudyError(f"{key}: {error}") from None
        return [(str(place.hookpoint), place)]
    chosen: Found = []
    said = dict(zip(hookpoints, source.hookpoints or hookpoints, strict=False))
    for hookpoint in hookpoints:
        places = [place for place in found if place.hookpoint == hookpoint]
        # A transcoder may be named by the module that it stands in for.
        places = places or [place for place in found if place.writes == hookpoint]
        # A place that is named as its makers do may be either; one that is named plainly is meant.
        places = places or [
            place if said[hookpoint].endswith("hook_normalized") else other_side(place)
            for place in found
            if place.or_reads == hookpoint
        ]
        if len(places) > 1:
            folders = ", ".join(str(place.path) for place in places)
            raise StudyError(f"{key}: {len(places)} SAEs read {hookpoint}: {folders}; point saes.path at one of them")
        there = listed([*(place.hookpoint for place in found if place.hookpoint is not None), *elsewhere])
        absent = (
            missing.get(hookpoint)
            or elsewhere.get(hookpoint)
            or MissingSae(f"{key}: no SAE for {hookpoint!r} in {source.path}; {there}")
        )
        chosen.append((str(places[0].hookpoint), places[0]) if places else (hookpoint, absent))
    return chosen
