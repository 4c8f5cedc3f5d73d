"""The study: every setting of one investigation, read from one YAML file and checked before anything is computed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from interp_assets.api_keys import place_of_key
from interp_assets.layers import Layer, control_layers
from interp_assets.sae_sources import find_layers, settings_of_model
from interp_assets.saes_from_hub import sae_folder
from interp_assets.setting_errors import StudyError, first_problem, keys_of, listed
from interp_assets.settings import (
    Alignment,
    Automation,
    Budget,
    Controls,
    Corpus,
    Engine,
    Examples,
    Explainer,
    ExplanationScorer,
    NegativeKind,
    ProofOfLoad,
    SaeSource,
    Scorers,
    Settings,
    SubjectModel,
    WindowScorer,
    identity,
    kinds_in,
    operational,
)
from interp_assets.study_checks import check_layers, check_settings
from resources.errors import NotNow, UnusableInput
from resources.hub import cached
from resources.strict_yaml import NotYaml, parsed

PROJECT = Path(__file__).resolve().parents[1]


def studies_folder() -> Path:
    """Where studies are looked for by name; INTERP_STUDIES names another folder."""
    return Path(os.environ.get("INTERP_STUDIES", PROJECT / "studies")).resolve()


class Study(Settings):
    name: str = identity(allowed="letters, digits and underscores", pattern=r"^[A-Za-z0-9_]+$")
    "The file's name when left out."
    storage: str = operational(".interp")
    "Folder for tables; studies that share it share their caches."
    subject_model: SubjectModel = identity()
    saes: tuple[SaeSource, ...] = identity(min_length=1)
    controls: Controls = identity(Controls())
    corpus: Corpus = identity()
    proof_of_load: ProofOfLoad = identity(ProofOfLoad())
    examples: Examples = identity(Examples())
    engines: dict[str, Engine] = operational(default_factory=dict)
    explainers: dict[str, Explainer] = identity(min_length=1)
    scorers: Scorers = identity(Scorers())
    alignment: Alignment | None = identity(None)
    "Nothing is matched when left out."
    budget: Budget | None = operational(None)
    automation: Automation = operational(Automation())

    # Not in the file: where it lies, and what the SAE folders hold.
    file: Path = operational(exclude=True)
    root: Path = operational(exclude=True)
    layers: tuple[Layer, ...] = operational((), exclude=True)

    @property
    def called(self) -> str:
        """What a command calls it: by its file's name in the studies folder, by its file elsewhere."""
        by_name = self.file == studies_folder() / f"{self.file.stem}.yaml"
        return self.file.stem if by_name else str(self.file)

    def path(self, path: str) -> Path:
        """A path of the study file as an absolute one."""
        return (self.root / Path(path).expanduser()).resolve()

    def local_folder(self, path: str) -> Path | None:
        """The folder that a model's `path` names, or None where it is a hub name."""
        return folder if (folder := self.path(path)).is_dir() else None

    def revision_of(self, path: str, revision: str | None = None) -> str | None:
        """The commit at which a hub name was fetched to this machine; what the study says where it is not here."""
        here = None if self.local_folder(path) is not None or path.count("/") != 1 else cached(path, revision)
        return revision if here is None else here.commit

    def model_at(self, path: str, revision: str | None = None) -> tuple[Path | str, str | None]:
        """Where a model is read: its folder, or its name on the hub and the commit that it was fetched at."""
        return self.local_folder(path) or path, self.revision_of(path, revision)

    def layer(self, key: str) -> Layer:
        for layer in self.layers:
            if layer.key == key:
                return layer
        raise StudyError(f"{self.name} has no layer {key!r}; {listed(layer.key for layer in self.layers)}")

    def examples_of(self, key: str) -> Examples:
        """The settings of one layer's examples: of a control fewer latents may be interpreted."""
        limit = self.layer(key).latents
        return self.examples if limit is None else self.examples.at_most(limit)

    def negatives_of(self, scorer: WindowScorer) -> tuple[NegativeKind, ...]:
        """The kinds of negatives that a scorer asks about."""
        drawn = self.examples.test.kinds
        if scorer.negatives is not None:
            return kinds_in(scorer.negatives)
        return ("random",) if "random" in drawn else drawn

    def explainers_of(self, scorer: ExplanationScorer) -> tuple[str, ...]:
        return scorer.explainers if scorer.explainers is not None else tuple(self.explainers)


def load_study(file: str | Path, get: bool = False) -> Study:
    """Read and check a study file.

    Relative paths in it start at the folder above a `studies` folder, or at the file's own folder elsewhere.

    Args:
        get: fetch SAEs from the hub that are not here.

    Raises:
        StudyError: with one line that names the file, the key, the value and what is allowed.
    """
    file = Path(file).expanduser().resolve()
    content = read_yaml(file)
    if not isinstance(content, dict):
        found = "empty" if content is None else f"a {type(content).__name__}"
        raise StudyError(f"{file}: it is {found}, a study is a mapping of settings; {listed(keys_of(Study))}")
    for hidden in sorted(set(Study.model_fields) - set(keys_of(Study))):
        if hidden in content:
            raise StudyError(f"{file}: {hidden}: unknown key; {listed(keys_of(Study))}")
    if place := place_of_key(content):
        raise StudyError(f"{file}: {place}: keys come from the environment: name the variable in key_env")
    root = file.parent.parent if file.parent.name == "studies" else file.parent
    name = re.sub(r"[^A-Za-z0-9_]", "_", file.stem)
    try:
        study = Study.model_validate({"name": name, **content, "file": file, "root": root})
        check_settings(study)
        study = study.model_copy(update={"layers": find_layers(study, get)})
        study = study.model_copy(update={"layers": (*study.layers, *find_controls(study, get))})
        check_layers(study)
        return study
    except ValidationError as error:
        raise StudyError(f"{file}: {first_problem(error, Study)}") from None
    except StudyError as error:
        raise StudyError(f"{file}: {error}") from None


def read_yaml(file: Path) -> Any:
    try:
        return parsed(file.read_bytes())
    except FileNotFoundError:
        raise StudyError(f"{file}: no such study file") from None
    except OSError as error:
        raise StudyError(f"{file}: cannot be read ({error.strerror})") from None
    except NotYaml as error:
        raise StudyError(f"{file}: {error}") from None


def find_controls(study: Study, get: bool = False) -> list[Layer]:
    untrained = study.controls.untrained
    named = untrained.saes if untrained else None
    wanted = tuple(
        layer.hookpoint for layer in study.layers if untrained and layer.key in (untrained.layers or (layer.key,))
    )
    try:
        folder = sae_folder(study, named, None, wanted, get, settings_of_model(study)) if named else None
    except (UnusableInput, NotNow) as error:
        raise StudyError(f"controls.untrained.saes: {error}") from None
    return control_layers(study.controls, study.layers, folder, settings_of_model(study) if folder else None)
