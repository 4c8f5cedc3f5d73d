"""The language models that explain and judge, what they cost, and how much may be spent."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, JsonValue

from interp_assets.settings.base import Dtype, Settings, device, identity, operational
from resources.language_models.protocol import Capability


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


class LocalModel(Settings):
    """A language model whose files lie here or on the Hugging Face hub."""

    in_process: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"generate", "choose", "log_likelihood"})
    package: ClassVar[str | None] = None
    "What it needs beside the packages that every study needs."
    kind: str = identity()
    path: str = operational()
    "A folder in Hugging Face layout, or the name of a model on the Hugging Face hub."
    revision: str | None = identity(None)
    dtype: Dtype = identity("bfloat16")
    chat_template: dict[str, JsonValue] | None = identity(
        None, allowed="a mapping of arguments, like {enable_thinking: false}", where_set=True
    )
    "Further arguments of the model's chat template: {enable_thinking: false} for many models that think."
    price: Price | None = operational(None)

    @property
    def model_name(self) -> str:
        return self.path


class TransformersEngine(LocalModel):
    """A language model run in this process by transformers."""

    kind: Literal["transformers"] = identity("transformers")
    device: str = device()
    batch_size: int = operational(16, ge=1)


class VllmEngine(LocalModel):
    """A language model run on this machine by vLLM, which the extra `vllm` brings: `interp doctor` says how."""

    package: ClassVar[str | None] = "vllm"
    kind: Literal["vllm"] = identity("vllm")
    tensor_parallel_size: int = operational(1, ge=1)
    "Devices that share the model."
    gpu_memory_utilization: float = operational(0.9, gt=0, le=1)
    "Share of each device's memory that weights, keys and values may fill."
    kv_cache_gb: float | None = operational(None, gt=0)
    "GiB for keys and values instead of what that share leaves; name it on a CPU, where the share is of all memory."
    max_model_len: int | None = identity(None, ge=1)
    "Most tokens of a prompt and its reply: a longer prompt is refused, a longer reply cut. The model's own when left out."
    enforce_eager: bool = operational(False)
    "Neither compile nor capture graphs: starts sooner, runs slower."


class OpenAIEngine(Settings):
    """A language model behind a server with OpenAI's interface: a hosted one, vLLM's, llama.cpp's or a router."""

    in_process: ClassVar[bool] = False
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"generate", "choose", "log_likelihood"})
    "At most; the engine itself finds out what its server can do."
    package: ClassVar[str | None] = None
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
    "How long a server that answers nothing is waited for; once a run, and then no longer than one small request takes."
    allow_plain_http: bool = operational(False)
    "Plain http shows prompts and the key to whoever is in between; on this machine itself nobody is."
    request: dict[str, JsonValue] | None = identity(
        None, allowed="a mapping of fields, like {reasoning_effort: minimal}", where_set=True
    )
    "Further fields of each request: {reasoning_effort: minimal}, or {chat_template_kwargs: {enable_thinking: false}}."
    own_fields: ClassVar[frozenset[str]] = frozenset(
        [
            "model",
            "messages",
            "prompt",
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
            "seed",
            "logprobs",
            "top_logprobs",
            "echo",
            "response_format",
            "structured_outputs",
            "n",
            "stream",
        ]
    )
    "Fields that `request` may not hold: the engine sets them, or reads replies by them."
    price: Price | None = operational(None)

    @property
    def model_name(self) -> str:
        return self.model


def with_kind(engine: Any) -> Any:
    return {"kind": "transformers"} | engine if isinstance(engine, dict) else engine


Engine = Annotated[
    TransformersEngine | VllmEngine | OpenAIEngine,
    Field(discriminator="kind"),
    BeforeValidator(with_kind),
]
