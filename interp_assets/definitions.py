"""The code location: every study in `studies/`, put together from the stages. `dagster dev` loads this."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from interp_assets.dagster_assets import study_assets
from interp_assets.study import Study, StudyError, load_study
from resources.loaded_models import LoadedModels

PROJECT = Path(__file__).resolve().parents[1]


def studies_folder() -> Path:
    """Where studies are looked for; INTERP_STUDIES names another folder."""
    return Path(os.environ.get("INTERP_STUDIES", PROJECT / "studies"))


def definitions_of(*studies: Study) -> dg.Definitions:
    return dg.Definitions(
        assets=[asset for study in studies for asset in study_assets(study)],
        resources={"models": LoadedModels()},
    )


def unreadable(file: Path, error: StudyError) -> dg.AssetSpec:
    """Stands in for a study that cannot be read, so that its error is seen in the UI and the others still load."""
    name = "".join(letter if letter.isalnum() else "_" for letter in file.stem)
    return dg.AssetSpec(key=[name, "unreadable_study"], group_name="unreadable", description=str(error))


def load_all(folder: Path) -> dg.Definitions:
    parts = []
    for file in sorted(folder.glob("*.yaml")):
        try:
            parts.append(definitions_of(load_study(file)))
        except StudyError as error:
            parts.append(dg.Definitions(assets=[unreadable(file, error)]))
    models = LoadedModels()
    return dg.Definitions(
        assets=[asset for part in parts for asset in part.assets or []],
        resources={"models": models},
    )


defs = load_all(studies_folder())
