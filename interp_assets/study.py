"""The study: every setting of one investigation, read from one YAML file.

Each field is marked *identity* (it decides what the results are: it enters the fingerprints of the assets that read
it) or *operational* (it decides how they are reached: device, batch sizes, paths; it never does). Paths are
operational because files enter by their content.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from resources.sparse_autoencoders.locate import SaeLocation, UnknownSae, locate

PROJECT = Path(__file__).resolve().parents[1]


def studies_folder() -> Path:
    """Where studies are looked for by name; INTERP_STUDIES names another folder."""
    return Path(os.environ.get("INTERP_STUDIES", PROJECT / "studies")).resolve()


class StudyError(Exception):
    """A study file that cannot be used; the message is one line that names the key, the value and what is allowed."""


def identity(default: Any = ..., **constraints: Any) -> Any:
    return Field(default, json_schema_extra={"mark": "identity"}, **constraints)


def operational(default: Any = ..., **constraints: Any) -> Any:
    return Field(default, json_schema_extra={"mark": "operational"}, **constraints)


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def identity(self) -> dict[str, Any]:
        """The fields that decide what the results are, nested settings included, as plain JSON values."""
        found = {}
        for name, field in type(self).model_fields.items():
            if mark(field) == "identity":
                value = getattr(self, name)
                found[name] = value.identity() if isinstance(value, Settings) else value
        return found


def mark(field: Any) -> str | None:
    extra = field.json_schema_extra
    return extra.get("mark") if isinstance(extra, dict) else None


Dtype = Literal["float32", "bfloat16", "float16"]
Sampler = Literal["top", "top_pool", "random", "quantiles", "mixture"]
NegativeKind = Literal["random", "neighbour"]


class SubjectModel(Settings):
    """The LLM whose activations are explained."""

    path: str = operational()
    "A folder in Hugging Face layout, or the name of a model on the Hugging Face hub."
    revision: str | None = identity(None)
    "For a hub name: the commit, tag or branch."
    dtype: Dtype = identity("bfloat16")
    device: str = operational("auto")
    "auto, cpu, cuda, cuda:1, ..."
    batch_tokens: int = operational(4096, ge=1)
    "Tokens in one forward pass."


class SaeSource(Settings):
    """A folder of sparse autoencoders, or a single one."""

    path: str = operational()
    format: Literal["auto", "sparsify", "saelens"] = operational("auto")
    hookpoints: tuple[str, ...] | None = operational(None)
    "Module paths under the base model, such as layers.10 or layers.3.mlp; all that the folder holds when left out."
    label: str | None = operational(None, pattern=r"^[A-Za-z0-9_.-]+$")
    "Tells apart two SAEs at one hookpoint: the layer key becomes layers.10@label."


class Corpus(Settings):
    """The text on which activations are collected."""

    path: str = operational()
    "A .parquet, .jsonl or .txt file, or a Hugging Face data set as name or name:configuration."
    split: str = identity("train")
    "For a Hugging Face data set."
    column: str = identity("text")
    "For Parquet, JSONL and data sets: the column that holds the text."
    tokens: int = identity(10_000_000, ge=1)
    "How many tokens are used, BOS included; rounded down to whole contexts."
    context_length: int = identity(256, ge=8, le=65_535)
    bos: bool = identity(True)
    "Begin every context with the tokenizer's BOS token; what latents do on it is dropped."
    separator: str = identity("\n\n")
    "Stands after every document; documents are packed into contexts without padding."


class ProofOfLoad(Settings):
    """What an SAE must show on a few thousand tokens before the long pass begins."""

    tokens: int = identity(4096, ge=64)
    max_fvu: float = identity(0.8, gt=0)
    "Largest fraction of variance unexplained. A wrong hookpoint or a transposed decoder lies near or above 1."
    l0_factor: float = identity(2.0, gt=1)
    "Mean L0 must lie within this factor of the published one, where there is one."


class ExplainExamples(Settings):
    sampler: Sampler = identity("quantiles")
    n: int = identity(40, ge=1)
    pool: int = identity(200, ge=1)
    "top_pool and mixture draw from this many strongest windows."


class TestExamples(Settings):
    __test__ = False  # not a pytest class

    activating: int = identity(100, ge=1)
    "Spread evenly over the ten deciles of peak activation."
    non_activating: int = identity(100, ge=0)
    negatives: NegativeKind = identity("random")
    "random: windows without the latent. neighbour: windows on which a latent with a similar decoder fires."


class Examples(Settings):
    """Which windows of text stand for a latent."""

    window: int = identity(32, ge=4)
    placement: Literal["aligned", "centred"] = identity("aligned")
    "aligned: contexts are cut into windows. centred: the peak stands at three quarters of the window."
    min_windows: int = identity(20, ge=2)
    "Latents with fewer active windows are counted and reported, not interpreted."
    latents: int | tuple[int, ...] | Literal["all"] = identity("all")
    "All, a number (drawn by a keyed hash from those with enough windows) or a list of latents."
    explain: ExplainExamples = identity(ExplainExamples())
    test: TestExamples = identity(TestExamples())
    seed: int = identity(0)


class TransformersEngine(Settings):
    """A language model run in this process by transformers."""

    kind: Literal["transformers"] = identity("transformers")
    path: str = operational()
    "A folder in Hugging Face layout, or the name of a model on the Hugging Face hub."
    revision: str | None = identity(None)
    dtype: Dtype = identity("bfloat16")
    device: str = operational("auto")
    batch_size: int = operational(16, ge=1)


class ExtractiveExplainer(Settings):
    """Explains by quoting: the words and short contexts that the latent fires on. No LLM."""

    kind: Literal["extractive"] = identity("extractive")
    words: int = identity(5, ge=1)
    phrases: int = identity(5, ge=0)


class LlmExplainer(Settings):
    """Explains by asking a language model about marked examples."""

    kind: Literal["llm"] = identity("llm")
    engine: str = identity()
    "A name under `engines`."
    latents: int | None = identity(None, ge=1)
    "Explain only this many of the interpreted latents (the first in the keyed order)."
    n_examples: int = identity(40, ge=1)
    mark_threshold: float = identity(0.3, ge=0, lt=1)
    "Tokens above this share of an example's maximum are marked."
    show_activations: bool = identity(False)
    promoted_tokens: bool = identity(False)
    chain_of_thought: bool = identity(False)
    max_tokens: int = identity(64, ge=8)


Explainer = Annotated[ExtractiveExplainer | LlmExplainer, Field(discriminator="kind")]


class EmbeddingScorer(Settings):
    """Cosine of explanation and example in the space of a sentence embedder; no LLM."""

    model: str = operational()
    "A sentence-transformers folder or hub name."
    dtype: Dtype = identity("float32")
    device: str = operational("auto")
    explainers: tuple[str, ...] | None = identity(None)
    activating: int = identity(10, ge=1)
    non_activating: int = identity(10, ge=1)
    shuffled_control: bool = identity(True)
    instruction: str = identity("")
    "Stands before each explanation; for embedders that were trained with a retrieval instruction."
    batch_size: int = operational(64, ge=1)


class JudgeScorer(Settings):
    """Detection or fuzzing: a language model judges single examples against the explanation."""

    engine: str = identity()
    explainers: tuple[str, ...] | None = identity(None)
    "Which explainers are scored; all when left out."
    activating: int = identity(50, ge=1)
    non_activating: int = identity(50, ge=1)
    protocol: Literal["single", "list"] = identity("single")
    "single: one example a prompt, answered by the probability of Yes. list: several a prompt, answered as a list."
    per_prompt: int = identity(5, ge=2)
    "Examples in one prompt of the list protocol."
    mark_threshold: float = identity(0.3, ge=0, lt=1)
    "Fuzzing: tokens above this share of an example's maximum are marked."
    shuffled_control: bool = identity(True)


class Scorers(Settings):
    embedding: EmbeddingScorer | None = identity(None)
    detection: JudgeScorer | None = identity(None)
    fuzzing: JudgeScorer | None = identity(None)

    def chosen(self) -> dict[str, EmbeddingScorer | JudgeScorer]:
        return {name: scorer for name in type(self).model_fields if (scorer := getattr(self, name)) is not None}


class Layer(Settings):
    """One SAE of the study: its partition key, where it reads in the subject model, and where its weights lie."""

    key: str = operational()
    hookpoint: str = identity()
    location: SaeLocation = operational()


class Study(Settings):
    name: str = operational("", pattern=r"^[A-Za-z0-9_]*$")
    "Letters, digits and underscores; the file's name when left out."
    storage: str = operational(".interp")
    "Folder for tables; studies that share it share their caches."
    subject_model: SubjectModel = identity()
    saes: tuple[SaeSource, ...] = identity(min_length=1)
    corpus: Corpus = identity()
    proof_of_load: ProofOfLoad = identity(ProofOfLoad())
    examples: Examples = identity(Examples())
    engines: dict[str, TransformersEngine] = operational(default_factory=dict)
    explainers: dict[str, Explainer] = identity(min_length=1)
    scorers: Scorers = identity(Scorers())

    file: Path = operational(Path())
    root: Path = operational(Path())
    layers: tuple[Layer, ...] = operational(())

    @model_validator(mode="after")
    def names_exist(self) -> Study:
        for section, settings in (("explainers", self.explainers), ("scorers", self.scorers.chosen())):
            for name, item in settings.items():
                engine = getattr(item, "engine", None)
                if engine is not None and engine not in self.engines:
                    raise ValueError(
                        f"{section}.{name}.engine: {engine!r} is not under engines; {listed(self.engines)}"
                    )
        for name, scorer in self.scorers.chosen().items():
            for explainer in scorer.explainers or ():
                if explainer not in self.explainers:
                    allowed = listed(self.explainers)
                    raise ValueError(f"scorers.{name}.explainers: {explainer!r} is not under explainers; {allowed}")
            for kind in ("activating", "non_activating"):
                wanted, drawn = getattr(scorer, kind), getattr(self.examples.test, kind)
                if wanted > drawn:
                    raise ValueError(f"scorers.{name}.{kind}: {wanted} is more than examples.test.{kind}, {drawn}")
        if self.examples.window > self.corpus.context_length:
            window, length = self.examples.window, self.corpus.context_length
            raise ValueError(f"examples.window: {window} is more than corpus.context_length, {length}")
        if self.corpus.tokens < self.corpus.context_length:
            tokens, length = self.corpus.tokens, self.corpus.context_length
            raise ValueError(f"corpus.tokens: {tokens} is less than one context of corpus.context_length, {length}")
        return self

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

    def explainers_of(self, scorer: EmbeddingScorer | JudgeScorer) -> tuple[str, ...]:
        return scorer.explainers if scorer.explainers is not None else tuple(self.explainers)


def listed(names: Any) -> str:
    names = list(names)
    return f"there are: {', '.join(map(str, names))}" if names else "there are none"


def load_study(file: str | Path) -> Study:
    """Read and check a study file.

    Relative paths in it start at the folder above a `studies` folder, or at the file's own folder elsewhere.

    Raises:
        StudyError: with one line that names the file, the key, the value and what is allowed.
    """
    file = Path(file).resolve()
    if not file.is_file():
        raise StudyError(f"{file}: no such study file")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = f" line {error.problem_mark.line + 1}:" if getattr(error, "problem_mark", None) else ""
        raise StudyError(f"{file}:{where} not valid YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(content, dict):
        raise StudyError(f"{file}: a study is a mapping of settings; {listed(public_keys())}")
    for hidden in sorted({"file", "root", "layers"} & set(content)):
        raise StudyError(f"{file}: {hidden}: unknown key; {listed(public_keys())}")
    root = file.parent.parent if file.parent.name == "studies" else file.parent
    content = {"name": file.stem, **content, "file": file, "root": root}
    try:
        study = Study.model_validate(content)
        check_files(study)
        return study.model_copy(update={"layers": find_layers(study)})
    except ValidationError as error:
        raise StudyError(f"{file}: {first_problem(error)}") from None
    except (StudyError, UnknownSae) as error:
        raise StudyError(f"{file}: {error}") from None


def public_keys() -> list[str]:
    return [name for name in Study.model_fields if name not in ("file", "root", "layers")]


def check_files(study: Study) -> None:
    models = [("subject_model.path", study.subject_model.path)]
    models += [(f"engines.{name}.path", engine.path) for name, engine in study.engines.items()]
    if study.scorers.embedding is not None:
        models.append(("scorers.embedding.model", study.scorers.embedding.model))
    for key, value in models:
        looks_local = value.startswith(("/", ".", "~")) or value.count("/") != 1
        if study.local_folder(value) is None and looks_local:
            raise StudyError(
                f"{key}: {value}: no such folder ({study.path(value)}), and not a hub name like owner/model"
            )
    corpus = study.corpus.path
    if not study.path(corpus).is_file() and Path(corpus).suffix in (".parquet", ".jsonl", ".txt"):
        raise StudyError(f"corpus.path: {corpus}: no such file ({study.path(corpus)})")


def find_layers(study: Study) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for i, source in enumerate(study.saes):
        folder = study.path(source.path)
        if not folder.exists():
            raise StudyError(f"saes[{i}].path: {source.path}: no such folder ({folder})")
        found = {place.hookpoint: place for place in locate(folder, source.format)}
        wanted = list(found) if source.hookpoints is None else list(source.hookpoints)
        if source.hookpoints is not None and len(found) == 1 and len(wanted) == 1 and next(iter(found)) is None:
            found = {wanted[0]: next(iter(found.values()))}
        for hookpoint in wanted:
            if hookpoint is None:
                raise StudyError(f"saes[{i}].hookpoints: {source.path} does not say what it reads; name its hookpoint")
            if hookpoint not in found:
                raise StudyError(f"saes[{i}].hookpoints: no SAE for {hookpoint!r} in {source.path}; {listed(found)}")
            key = f"{hookpoint}@{source.label}" if source.label else hookpoint
            layers.append(Layer(key=key, hookpoint=hookpoint, location=found[hookpoint]))
    keys = [layer.key for layer in layers]
    if doubled := sorted({key for key in keys if keys.count(key) > 1}):
        raise StudyError(f"saes: {doubled[0]} appears twice; give one of the sources a label")
    return tuple(layers)


def first_problem(error: ValidationError) -> str:
    """The first error of pydantic in one line: key, value, what is allowed."""
    problem = error.errors()[0]
    tags = {"extractive", "llm"}
    key = ".".join(str(part) for part in problem["loc"] if part not in tags)
    kind, value = problem["type"], problem["input"]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if kind == "extra_forbidden":
        return f"{key}: unknown key; {listed(keys_beside(problem['loc']))}{more}"
    if kind == "missing":
        return f"{key}: missing{more}"
    if kind == "value_error":
        return str(problem["ctx"]["error"]) + more
    shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}..."
    return f"{key}: {shown}: {problem['msg'][0].lower()}{problem['msg'][1:]}{more}"


def keys_beside(location: tuple[Any, ...]) -> list[str]:
    """The keys that are allowed where an unknown one stood."""
    where: Any = Study
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        if isinstance(where, type) and issubclass(where, Settings) and part in where.model_fields:
            where = where.model_fields[part].annotation
            continue
        models = [model for model in nested_settings(where) if model.model_fields.get("kind") is not None]
        chosen = [model for model in models if part in get_args(model.model_fields["kind"].annotation)]
        where = chosen[0] if chosen else where
    models = nested_settings(where)
    if where is Study:
        return public_keys()
    return list(models[0].model_fields) if models else []


def nested_settings(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for argument in get_args(annotation) for model in nested_settings(argument)]
