"""The code location: every study in `studies/`. `dagster dev` loads this."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from interp_assets.dagster_assets import definitions_of
from interp_assets.study import StudyError, load_study, studies_folder


def unreadable(file: Path, error: StudyError) -> dg.Definitions:
    """Stands in for a study that cannot be read, so that its error is seen in the UI and the others still load."""
    name = "".join(letter if letter.isalnum() else "_" for letter in file.stem)
    spec = dg.AssetSpec(key=[name, "unreadable_study"], group_name="unreadable", description=str(error))
    return dg.Definitions(assets=[spec])


def load_all(folder: Path) -> dg.Definitions:
    studies, broken = [], []
    for file in sorted(folder.glob("*.yaml")):
        try:
            studies.append(load_study(file))
        except StudyError as error:
            broken.append(unreadable(file, error))
    return dg.Definitions.merge(definitions_of(*studies), *broken)


defs = load_all(studies_folder())
