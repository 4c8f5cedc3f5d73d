"""What somebody's SAEs are, read from their files, and what a study of them has to assume.

Each thing that is assumed is kept with the reason, for the study file and for whoever asked.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp_assets.model_names import hub_name_of
from interp_assets.sae_sources import hub_settings
from interp_assets.saes_from_hub import fetched_if_small
from interp_assets.setting_errors import StudyError
from interp_assets.study import PROJECT, studies_folder
from resources.errors import UnusableInput
from resources.hub import repository_of
from resources.layer_paths import LAYER_PATHS
from resources.sparse_autoencoders.config import read_config
from resources.sparse_autoencoders.locate import locate
from resources.sparse_autoencoders.location import SaeLocation, describe, in_order

CHANGE = "CHANGE THIS"
PLACEHOLDER = "owner/model"
DEMO_CORPUS = PROJECT / "demo" / "corpus.parquet"
DEMO_EMBEDDER = PROJECT / "demo" / "weights" / "all-MiniLM-L6-v2"
HUB_CORPUS, HUB_EMBEDDER = "monology/pile-uncopyrighted", "sentence-transformers/all-MiniLM-L6-v2"
UNKNOWN_PLACE = "layers.0"


@dataclass
class Found:
    """What the files of some SAEs say, and what is assumed beside it."""

    path: str
    "As it is to stand in the study: a path, or a hub name."
    folder: Path
    saes: list[SaeLocation]
    unreadable: dict[Path, str]
    model: str
    corpus: str
    bos: bool | str = True
    context_length: int = 256
    tokens: int = 262_144
    assumed: dict[str, str] = field(default_factory=dict)
    "By setting, why it is what it is; where somebody has to change it, this begins with CHANGE."


def file_for(path: str, output: str | None) -> Path:
    """Where the study is to be written.

    Raises:
        StudyError: something is there already, or its name is none for a study.
    """
    file = Path(output) if output else studies_folder() / f"{name_of(path)}.yaml"
    file = file.expanduser().resolve()
    if file.suffix != ".yaml":  # others are not found by name, nor by the UI
        raise StudyError(f"--output: {file}: a study file ends in .yaml")
    if file.exists():
        raise StudyError(f"{file}: is there already, and nothing is written over it; name another with --output")
    return file


def name_of(path: str) -> str:
    """A study's name from what it is about: `saes`, `gemma_scope_2b_pt_res_layer_20`."""
    own = Path(path).resolve().name if Path(path).exists() else "_".join(path.split("/")[1:])
    return re.sub(r"[^A-Za-z0-9]+", "_", own).strip("_") or "study"


def look(path: str, root: Path, model: str | None, corpus: str | None) -> Found:
    """What the SAEs in a folder or hub repository are, and what a study of them has to assume.

    Args:
        root: where the study's paths begin.
        model: the subject model, corpus: the text; they are looked for where None.

    Raises:
        UnusableInput: there are no SAEs that can be read.
        NotNow: the hub is not reached.
    """
    if not path:
        raise UnusableInput("no folder was named")
    local = Path(path).expanduser()
    folder = local.resolve() if local.exists() else fetched_if_small(path)
    shown = relative(folder, root) if local.exists() else path.strip("/")
    problems: dict[Path, str] = {}
    saes = readable(folder, problems)
    found = Found(shown, folder, saes, problems, PLACEHOLDER, "")
    choose_model(found, model, root)
    # Now that the model is known, so is what names of hooks mean in it.
    found.saes = readable(folder, problems, settings_of(found.model, root))
    found.saes.sort(key=in_order)
    check_width(found, root)
    if any(sae.hookpoint is None for sae in found.saes):
        found.assumed["saes"] = f"{CHANGE}: {UNKNOWN_PLACE}, where the files do not say what is read"
    choose_text(found, corpus, root)
    return found


def readable(folder: Path, problems: dict[Path, str], model: Mapping[str, Any] | None = None) -> list[SaeLocation]:
    """The SAEs that can be read, at least one; `problems` becomes those of the others."""
    problems.clear()
    saes = []
    for sae in locate(folder, model=model, problems=problems):
        try:
            describe(sae)
            saes.append(sae)
        except UnusableInput as error:
            problems[sae.path] = str(error)
    if not saes:
        raise UnusableInput(next(iter(problems.values())))
    return saes


def choose_model(found: Found, named: str | None, root: Path) -> None:
    """Whose activations the SAEs read: what is asked for, what they say, or the one model here that fits."""
    key = "subject_model.path"
    if named is not None and (folder := Path(named).expanduser()).is_dir() and width_of(folder) is None:
        raise UnusableInput(f"--model: {named}: no causal language model (its config.json names none)")
    said = said_by(found, "model")
    if named is not None:
        found.model = relative(Path(named), root) if Path(named).expanduser().exists() else named
    elif said is not None and (known := hub_name_of(said)) is not None:
        found.model = known
        found.assumed[key] = f"the SAEs' settings name {said!r}"
    elif said is not None:
        found.assumed[key] = f"{CHANGE}: the SAEs' settings name {said!r}, which is no folder and no hub name"
    else:
        fitting = models_that_fit(found.saes[0])
        if len(fitting) == 1:
            found.model = relative(fitting[0], root)
            found.assumed[key] = (
                f"the only one of the demo's models of {found.saes[0].declared_inputs():,} dimensions; the SAEs name none"
            )
        else:
            there = f"; here, of their width: {', '.join(map(str, fitting))}" if fitting else ""
            found.assumed[key] = f"{CHANGE}: the SAEs' settings name no model{there}"


def check_width(found: Found, root: Path) -> None:
    """
    Raises:
        UnusableInput: an SAE of the residual stream has another width than that of the subject model, which is here.
    """
    width = width_of(root / Path(found.model).expanduser())
    for sae in found.saes:
        layer = re.fullmatch(r"(?:\w+\.)*(?:layers|h)\.\d+(?::in)?", sae.hookpoint or "")
        if width is not None and layer and sae.declared_inputs() != width:
            raise UnusableInput(
                f"{sae.path}: reads {sae.declared_inputs():,} dimensions at {sae.hookpoint}, where {found.model} has {width:,}"
            )


def models_that_fit(sae: SaeLocation) -> list[Path]:
    """Models of the demo whose residual stream is as wide as what an SAE reads."""
    width = sae.declared_inputs()
    return [folder for folder in sorted(PROJECT.glob("demo/weights/*")) if width_of(folder) == width]


WIDTHS = ("hidden_size", "n_embd", "d_model")
"What settings call the width of the residual stream."


def width_of(folder: Path) -> int | None:
    """Of a causal language model; None of anything else."""
    try:
        config = read_config(folder / "config.json")
    except (UnusableInput, OSError):
        return None
    text = config.get("text_config", config)
    return next((text[name] for name in WIDTHS if name in text), None) if causal(config) else None


def causal(config: dict[str, Any]) -> bool:
    names = [str(name) for name in config.get("architectures") or ()]
    if not names:
        return config.get("model_type") in LAYER_PATHS
    # What reads more than text is loaded for its text model.
    return any(kind in name for name in names for kind in ("CausalLM", "LMHead", "ForConditionalGeneration"))


def settings_of(model: str, root: Path) -> Mapping[str, Any] | None:
    """The settings of the subject model: of its folder, or of the hub where that is reached."""
    folder = root / Path(model).expanduser()
    if folder.is_dir():
        with suppress(UnusableInput, OSError):
            return read_config(folder / "config.json")
    return hub_settings(model, None, get=model != PLACEHOLDER)


def choose_text(found: Found, named: str | None, root: Path) -> None:
    """The text: what is asked for, what the SAEs were trained on, or the demo's."""
    dataset = said_by(found, "dataset")
    if named is not None:
        found.corpus = relative(Path(named), root) if Path(named).expanduser().exists() else named
    elif dataset is not None and repository_of(dataset) is not None:
        found.corpus = dataset
        found.assumed["corpus.path"] = "the text that the SAEs were trained on, as their settings say"
    elif DEMO_CORPUS.exists():
        found.corpus = relative(DEMO_CORPUS, root)
        found.assumed["corpus.path"] = "the demo's text; better is text like that on which the SAEs were trained"
    else:
        found.corpus = HUB_CORPUS
        found.assumed["corpus.path"] = "the SAEs' settings name no text"


SAYS: dict[str, Sequence[str]] = {
    "model": ("model_name", "lm_name", "model"),
    "dataset": ("dataset_path", "dataset"),
    "context": ("context_size", "ctx_len"),
    "bos": ("prepend_bos",),
}
"What settings of SAEs, or of the training beside them, say under which of several names."


def said_by(found: Found, what: str) -> str | None:
    """What the settings of the first SAE that says anything say, as text."""
    for sae in found.saes:
        declared = {"model": sae.declared().model, "bos": sae.declared().bos} if what in ("model", "bos") else {}
        for value in [declared.get(what), *(each.get(key) for each in sections_of(sae, found) for key in SAYS[what])]:
            if isinstance(value, bool | int) or (isinstance(value, str) and value):
                return json.dumps(value) if not isinstance(value, str) else value
    return None


def sections_of(sae: SaeLocation, found: Found) -> Iterable[dict[str, Any]]:
    """An SAE's own settings, section by section, then those of the training that lie beside the SAEs."""
    own = sae.config()
    yield own
    yield from (value for value in own.values() if isinstance(value, dict))
    if found.folder != sae.folder and (found.folder / "config.json").is_file():
        try:
            yield read_config(found.folder / "config.json")
        except UnusableInput:
            return


def relative(path: Path, root: Path) -> str:
    """As it is to stand in a study whose paths begin at `root`."""
    path = path.expanduser().resolve()
    inside = os.path.relpath(path, root)
    return str(path) if inside.startswith("..") else f"./{inside}" if "/" not in inside else inside
