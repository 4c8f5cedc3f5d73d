"""The study: every setting of one investigation, read from one YAML file and checked before anything is computed."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import ValidationError

from interp_assets.api_keys import place_of_key
from interp_assets.layers import CONTROLS, Layer, control_layers
from interp_assets.setting_errors import StudyError, first_problem, keys_of, listed
from interp_assets.settings import (
    Alignment,
    Automation,
    Budget,
    Controls,
    Corpus,
    EmbedderSettings,
    Engine,
    Examples,
    Explainer,
    ExplanationScorer,
    JudgeScorer,
    LocalModel,
    NegativeKind,
    OpenAIEngine,
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
from resources.sparse_autoencoders.locate import SaeLocation, UnknownSae, locate

PROJECT = Path(__file__).resolve().parents[1]
CORPUS_FILES = (".parquet", ".jsonl", ".txt")


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

    def path(self, path: str) -> Path:
        """A path of the study file as an absolute one."""
        return (self.root / Path(path).expanduser()).resolve()

    def local_folder(self, path: str) -> Path | None:
        """The folder that a model's `path` names, or None where it is a hub name."""
        return folder if (folder := self.path(path)).is_dir() else None

    def layer(self, key: str) -> Layer:
        for layer in self.layers:
            if layer.key == key:
                return layer
        raise StudyError(f"{self.name} has no layer {key!r}; {listed(layer.key for layer in self.layers)}")

    def negatives_of(self, scorer: WindowScorer) -> tuple[NegativeKind, ...]:
        """The kinds of negatives that a scorer asks about."""
        drawn = self.examples.test.kinds
        if scorer.negatives is not None:
            return kinds_in(scorer.negatives)
        return ("random",) if "random" in drawn else drawn

    def explainers_of(self, scorer: ExplanationScorer) -> tuple[str, ...]:
        return scorer.explainers if scorer.explainers is not None else tuple(self.explainers)


def load_study(file: str | Path) -> Study:
    """Read and check a study file.

    Relative paths in it start at the folder above a `studies` folder, or at the file's own folder elsewhere.

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
        check_names(study)
        check_bounds(study)
        check_addresses(study)
        check_requests(study)
        check_files(study)
        study = study.model_copy(update={"layers": find_layers(study)})
        study = study.model_copy(update={"layers": (*study.layers, *find_controls(study))})
        check_keys(study)
        check_pairs(study)
        return study
    except ValidationError as error:
        raise StudyError(f"{file}: {first_problem(error, Study)}") from None
    except StudyError as error:
        raise StudyError(f"{file}: {error}") from None


class OneOfEachKey(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error; by itself the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"{key.value} stands there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> Any:
    try:
        return yaml.load(file.read_text(encoding="utf-8"), OneOfEachKey)  # noqa: S506 a SafeLoader
    except FileNotFoundError:
        raise StudyError(f"{file}: no such study file") from None
    except OSError as error:
        raise StudyError(f"{file}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise StudyError(f"{file}: {where}not valid YAML ({problem})") from None


def check_names(study: Study) -> None:
    """Engines and explainers that are referred to exist; labels are free."""
    for i, source in enumerate(study.saes):
        if source.label in CONTROLS:
            raise StudyError(f"saes[{i}].label: {source.label!r} names a control; take a label that is none of them")
    for section, settings in (("explainers", study.explainers), ("scorers", study.scorers.chosen())):
        for name, item in settings.items():
            for key in ("engine", "explainer", "scorer"):
                engine = getattr(item, key, None)
                if engine is not None and engine not in study.engines:
                    raise StudyError(
                        f"{section}.{name}.{key}: {engine!r} is not under engines; {listed(study.engines)}"
                    )
    for name, scorer in study.scorers.chosen().items():
        for explainer in getattr(scorer, "explainers", None) or ():
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
    if study.examples.window > length:
        raise StudyError(f"examples.window: {study.examples.window} is more than corpus.context_length, {length}")
    intervention = study.scorers.intervention
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
    if file.exists() and not (file.is_file() and file.suffix in CORPUS_FILES):
        found = "a folder" if file.is_dir() else f"a {file.suffix} file" if file.suffix else "a file without suffix"
        raise StudyError(f"corpus.path: {corpus}: is {found}; what is read: {', '.join(CORPUS_FILES)}")
    if not file.exists() and (file.suffix in CORPUS_FILES or looks_local(corpus)):
        raise StudyError(f"corpus.path: {corpus}: no such file ({file})")


def find_layers(study: Study) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for i, source in enumerate(study.saes):
        folder = study.path(source.path)
        if not folder.exists():
            raise StudyError(f"saes[{i}].path: {source.path}: no such folder ({folder})")
        try:
            found = locate(folder, source.format)
        except UnknownSae as error:
            raise StudyError(f"saes[{i}].path: {error}") from None
        for hookpoint, place in wanted_saes(f"saes[{i}].hookpoints", source, found):
            key = f"{hookpoint}@{source.label}" if source.label else hookpoint
            layers.append(Layer(key=key, hookpoint=hookpoint, location=place))
    return tuple(layers)


def find_controls(study: Study) -> list[Layer]:
    named = study.controls.untrained.saes if study.controls.untrained else None
    folder = study.path(named) if named else None
    if folder is not None and not folder.exists():
        raise StudyError(f"controls.untrained.saes: {named}: no such folder ({folder})")
    return control_layers(study.controls, study.layers, folder)


def check_keys(study: Study) -> None:
    keys = [layer.key for layer in study.layers]
    if doubled := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise StudyError(f"saes: {doubled[0]} appears twice; give one of the sources a label")


def check_pairs(study: Study) -> None:
    known = [layer.key for layer in study.layers if layer.control is None]
    for i, pair in enumerate((study.alignment.pairs if study.alignment else None) or ()):
        for key in pair:
            if key not in known:
                raise StudyError(f"alignment.pairs[{i}]: no layer {key!r}; {listed(known)}")
        if pair[0] == pair[1]:
            raise StudyError(f"alignment.pairs[{i}]: {pair[0]} is matched with another layer, not with itself")


def wanted_saes(key: str, source: SaeSource, found: list[SaeLocation]) -> list[tuple[str, SaeLocation]]:
    """The SAEs of a source by hookpoint: those it names, or all."""
    if source.hookpoints is not None and len(found) == 1 and found[0].hookpoint is None:
        if len(source.hookpoints) > 1:
            raise StudyError(
                f"{key}: {list(source.hookpoints)} are {len(source.hookpoints)} places for the one SAE in {source.path}"
            )
        return [(source.hookpoints[0], found[0])]
    unnamed = [place.folder.name for place in found if place.hookpoint is None]
    if source.hookpoints is None and unnamed:
        raise StudyError(
            f"{key}: missing; the files of {', '.join(unnamed)} in {source.path} do not say what it reads, so name it here, "
            f"as in hookpoints: [layers.10]"
            + ("" if len(found) == 1 else ", with one entry under saes for each such folder")
        )
    chosen: list[tuple[str, SaeLocation]] = []
    for hookpoint in source.hookpoints or dict.fromkeys(str(place.hookpoint) for place in found):
        places = [place for place in found if place.hookpoint == hookpoint]
        if not places:
            there = listed(place.hookpoint for place in found if place.hookpoint is not None)
            raise StudyError(f"{key}: no SAE for {hookpoint!r} in {source.path}; {there}")
        if len(places) > 1:
            folders = ", ".join(str(place.folder) for place in places)
            raise StudyError(f"{key}: {len(places)} SAEs read {hookpoint}: {folders}; point saes.path at one of them")
        chosen.append((hookpoint, places[0]))
    return chosen
