"""The settings that a study file may hold, section by section.

Each field is marked *identity* (it decides what the results are: it enters the fingerprints of the assets that read
it) or *operational* (it decides how they are reached: device, batch sizes, paths; it never does). Paths are
operational because files enter by their content.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from resources.language_models.protocol import Capability


def identity(default: Any = ..., allowed: str | None = None, **constraints: Any) -> Any:
    """`allowed` says in words what a pattern says in signs."""
    return Field(default, json_schema_extra={"mark": "identity", "allowed": allowed}, **constraints)


def operational(default: Any = ..., allowed: str | None = None, **constraints: Any) -> Any:
    return Field(default, json_schema_extra={"mark": "operational", "allowed": allowed}, **constraints)


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
Count = Annotated[int, Field(ge=1)]
LatentNumbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


def device() -> Any:
    """A field: where a model runs."""
    return operational("auto", allowed="auto, cpu, cuda, cuda:1, ...", pattern=r"^(auto|cpu|mps|(cuda|xpu)(:[0-9]+)?)$")


class SubjectModel(Settings):
    """The LLM whose activations are explained."""

    path: str = operational()
    "A folder in Hugging Face layout, or the name of a model on the Hugging Face hub."
    revision: str | None = identity(None)
    "For a hub name: the commit, tag or branch."
    dtype: Dtype = identity("bfloat16")
    device: str = device()
    batch_tokens: int = operational(4096, ge=1)
    "Tokens in one forward pass."


class SaeSource(Settings):
    """A folder of sparse autoencoders, or a single one."""

    path: str = operational()
    format: Literal["auto", "sparsify", "saelens"] = operational("auto")
    hookpoints: tuple[str, ...] | None = identity(None, min_length=1)
    "Module paths under the base model, such as layers.10 or layers.3.mlp; all that the folder holds when left out."
    label: str | None = identity(
        None, allowed="letters, digits and any of _ . -", pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$"
    )
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
    max_fvu: float = identity(0.5, gt=0)
    "Largest fraction of variance unexplained. A forgotten b_dec or a transposed decoder lies above 0.7."
    compare_layers: bool = identity(True)
    "Refuse an SAE that explains the same module of another layer better than the one it is said to read."
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
    latents: Count | LatentNumbers | Literal["all"] = identity("all")
    "All, a number (drawn by a keyed hash from those with enough windows) or a list of latents."
    explain: ExplainExamples = identity(ExplainExamples())
    test: TestExamples = identity(TestExamples())
    seed: int = identity(0)


class Alignment(Settings):
    """Which latents of two layers stand for the same thing."""

    pairs: tuple[tuple[str, str], ...] | None = operational(None, min_length=1)
    "Pairs of layer keys; every two adjacent layers when left out. Which pairs there are changes none of them."
    similarity: Literal["decoder", "encoder"] = identity("decoder")
    "Cosine of decoder or of encoder directions."


class Price(Settings):
    """What an engine takes for a million tokens, in one currency for the whole study."""

    input: float = operational(0.0, ge=0)
    cached: float | None = operational(None, ge=0)
    "Of input that the engine had in its prefix cache; as `input` when left out."
    output: float = operational(0.0, ge=0)

    def of(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> float:
        cached = self.input if self.cached is None else self.cached
        new = prompt_tokens - cached_tokens
        return (new * self.input + cached_tokens * cached + completion_tokens * self.output) / 1e6


class Budget(Settings):
    """How much may be spent on a study's engines, over its whole life."""

    tokens: int | None = operational(None, ge=0)
    "Prompt and completion tokens together."
    money: float | None = operational(None, ge=0)


class TransformersEngine(Settings):
    """A language model run in this process by transformers."""

    in_process: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"generate", "choose", "log_likelihood"})
    kind: Literal["transformers"] = identity("transformers")
    path: str = operational()
    "A folder in Hugging Face layout, or the name of a model on the Hugging Face hub."
    revision: str | None = identity(None)
    dtype: Dtype = identity("bfloat16")
    device: str = device()
    batch_size: int = operational(16, ge=1)
    price: Price | None = operational(None)


class OpenAIEngine(Settings):
    """A language model behind a server with OpenAI's interface: a hosted one, vLLM's, llama.cpp's or a router."""

    in_process: ClassVar[bool] = False
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"generate", "choose", "log_likelihood"})
    "At most; the engine itself finds out what its server can do."
    kind: Literal["openai"] = identity("openai")
    base_url: str = operational(
        allowed="an address like https://host/v1",
        pattern=r"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^\s?#@]*)?$",
    )
    model: str = identity(min_length=1)
    revision: str | None = identity(None)
    "Declare another one when the served weights change; nobody else can tell."
    key_env: str | None = operational(
        None, allowed="the name of an environment variable", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"
    )
    "The environment variable that holds the key; keys stand in no file."
    concurrency: int = operational(64, ge=1)
    "Most requests in flight."
    timeout_seconds: float = operational(600, gt=0)
    "Longest time to one reply."
    wait_seconds: float = operational(600, ge=0)
    "How long a server that answers nothing is waited for."
    allow_plain_http: bool = operational(False)
    "Plain http shows prompts and the key to whoever is in between; on this machine itself nobody is."
    price: Price | None = operational(None)


def with_kind(engine: Any) -> Any:
    return {"kind": "transformers"} | engine if isinstance(engine, dict) else engine


Engine = Annotated[
    TransformersEngine | OpenAIEngine,
    Field(discriminator="kind"),
    BeforeValidator(with_kind),
]


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
    instructions: str | None = identity(None)
    "Stands in place of our own instructions; how to answer is added to it."
    max_tokens: int = identity(64, ge=8)


Explainer = Annotated[ExtractiveExplainer | LlmExplainer, Field(discriminator="kind")]


class EmbeddingScorer(Settings):
    """Cosine of explanation and example in the space of a sentence embedder; no LLM."""

    model: str = operational()
    "A sentence-transformers folder or hub name."
    dtype: Dtype = identity("float32")
    device: str = device()
    explainers: tuple[str, ...] | None = identity(None, min_length=1)
    activating: int = identity(10, ge=1)
    non_activating: int = identity(10, ge=1)
    shuffled_control: bool = identity(True)
    instruction: str = identity("")
    "Stands before each explanation; for embedders that were trained with a retrieval instruction."
    batch_size: int = operational(64, ge=1)


class JudgeScorer(Settings):
    """Detection or fuzzing: a language model judges single examples against the explanation."""

    engine: str = identity()
    explainers: tuple[str, ...] | None = identity(None, min_length=1)
    "Which explainers are scored; all when left out."
    activating: int = identity(50, ge=1)
    non_activating: int = identity(50, ge=1)
    protocol: Literal["single", "list"] = identity("single")
    "single: one example a prompt, answered by the probability of Yes. list: several a prompt, answered as a list."
    per_prompt: int = identity(5, ge=2)
    "Examples in one prompt of the list protocol."
    mark_threshold: float = identity(0.3, ge=0, lt=1)
    "Fuzzing: tokens above this share of an example's maximum are marked."
    instructions: str | None = identity(None)
    "Stands in place of our own instructions."
    shuffled_control: bool = identity(True)


class Scorers(Settings):
    embedding: EmbeddingScorer | None = identity(None)
    detection: JudgeScorer | None = identity(None)
    fuzzing: JudgeScorer | None = identity(None)

    def chosen(self) -> dict[str, EmbeddingScorer | JudgeScorer]:
        return {name: scorer for name in type(self).model_fields if (scorer := getattr(self, name)) is not None}


def is_cron(line: str) -> bool:
    """Whether a line has the five fields of cron, in numbers: lists, ranges and steps of minute, hour, day, month, weekday."""
    fields = line.split()
    if len(fields) == 5 and re.fullmatch("30|31", fields[2]) and re.fullmatch("0?2", fields[3]):
        return False  # February never has that day
    return len(fields) == 5 and all(map(is_cron_field, fields, (0, 0, 1, 1, 0), (59, 23, 31, 12, 7)))


def is_cron_field(text: str, least: int, most: int) -> bool:
    for part in text.split(","):
        found = re.fullmatch(r"(?:\*|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/([1-9][0-9]?))?", part)
        if found is None:
            return False
        first, last = found[1] or least, found[2] or found[1] or most
        if not least <= int(first) <= int(last) <= most:
            return False
    return True


def cron(line: str) -> str:
    if not is_cron(line):
        raise ValueError("not a cron line")
    return line


class Automation(Settings):
    """What happens by itself while Dagster's daemon runs."""

    enabled: bool | None = operational(None)
    "On when left out."
    schedule: Annotated[str, AfterValidator(cron)] | None = operational(
        "0 3 * * *", allowed="five fields of cron in numbers (UTC), as in '0 3 * * *', or null for none"
    )
    "When everything is checked, and what failed for reasons outside of its input is tried again."
    watch_seconds: int = operational(30, ge=1)
    "How often files are looked at and what is due is requested, at most."
