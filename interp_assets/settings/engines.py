"""The language models that explain and judge, what they cost, and how much may be spent."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

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
