"""The code location: every study in `studies/`. `dagster dev` loads this."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from interp_assets.automation import DueNow, automation_of
from interp_assets.dagster_assets import definitions_of
from interp_assets.setting_errors import StudyError
from interp_assets.study import Study, load_study, studies_folder


def unreadable(file: Path, error: StudyError) -> dg.Definitions:
    """Stands in for a study that cannot be read, so that its error is seen in the UI and the others still load."""
    name = "".join(letter if letter.isalnum() else "_" for letter in file.stem)
    spec = dg.AssetSpec(key=[name, "unreadable_study"], group_name="unreadable", description=str(error))
    return dg.Definitions(assets=[spec])


def load_all(folder: Path) -> dg.Definitions:
    studies: dict[str, Study] = {}
    broken = []
    for file in sorted(folder.glob("*.yaml")):
        try:
            study = load_study(file)
            if first := studies.get(study.name):
                raise StudyError(f"{file}: name: {study.name!r} is the name of {first.file} too; give it another")
            studies[study.name] = study
        except StudyError as error:
            broken.append(unreadable(file, error))
    conditions = {name: DueNow(study) for name, study in studies.items()}
    automations = [automation_of(study, conditions[name]) for name, study in studies.items()]
    assets = definitions_of(*studies.values(), condition_of=lambda study: conditions[study.name])
    return dg.Definitions.merge(assets, *automations, *broken)


defs = load_all(studies_folder())
