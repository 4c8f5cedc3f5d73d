"""A language model run on this machine by vLLM, in processes of vLLM's own.

With those processes goes all that the model held, on whatever device, so that another model fits after `close`. They
are started afresh, never forked: a copy of a process whose libraries run threads may hang.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

# vLLM and what it starts read these when they are imported. Its notes would stand between our lines of progress, and
# it would report its use to its makers.
os.environ.update({"VLLM_LOGGING_LEVEL": "ERROR", "TORCH_CPP_LOG_LEVEL": "ERROR"} | dict(os.environ))
os.environ.update({"VLLM_NO_USAGE_STATS": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn", "PYTHONWARNINGS": "ignore"})

from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.exceptions import EngineDeadError

from resources.child_processes import ChildProcesses
from resources.errors import NotNow, one_line
from resources.language_models.prompts import Ids, Prompts, Way, grouped, seed_of, total, ways_on
from resources.language_models.protocol import (
    FORMS,
    Capability,
    ChooseRequest,
    Chosen,
    Constraint,
    Form,
    Generated,
    GenerateRequest,
    Likelihood,
    LikelihoodRequest,
    Usage,
    silent,
)
from resources.tokenizers import load_tokenizer

CODE_VERSION = "1"
"Raise it, here and in `protocol.CODE_VERSIONS`, when the same request gets another reply."

IN_FLIGHT = 512
"Requests given to vLLM at once: more than it computes at a time, so that it never waits for the next."
END_SECONDS = 30.0
"For its processes to end by themselves."
NOTHING = Usage(0, 0, 0)

Key = TypeVar("Key")


class VllmEngine:
    capabilities: frozenset[Capability] = frozenset({"generate", "choose", "log_likelihood"})
    forms: frozenset[Form] = FORMS
    retries = 0

    def __init__(
        self,
        path: str | Path,
        revision: str | None = None,
        dtype: str = "bfloat16",
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        max_model_len: int | None = None,
        enforce_eager: bool = False,
        kv_cache_gb: float | None = None,
        identity: Any = None,
        chat_template: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            kv_cache_gb: memory for keys and values, in GiB; what `gpu_memory_utilization` leaves where None.
            identity: what decides the replies, as plain JSON values; only the caller can tell.
            chat_template: further arguments of the tokenizer's chat template.

        Raises:
            UnusableInput: no tokenizer lies there.
            NotNow: vLLM does not start.
        """
        self.name = Path(path).name
        self.identity = identity
        self.prompts = Prompts(load_tokenizer(path, revision), chat_template)
        self._arguments = {
            "model": str(path),
            "revision": revision,
            "dtype": dtype,
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_model_len": max_model_len,
            "enforce_eager": enforce_eager,
            "kv_cache_memory_bytes": None if kv_cache_gb is None else int(kv_cache_gb * 2**30),
            "enable_prefix_caching": True,
            "trust_remote_code": False,
            "use_tqdm_on_load": False,
            # The same grammars as the transformers engine has.
            "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
        }
        self._numbers = count()
        self._engine: Any = self._start()

    def _start(self) -> Any:
        self._processes = ChildProcesses()
        try:
            with self._processes.watching():
                return LLM(**self._arguments).llm_engine
        except Exception as error:
            self._processes.end(END_SECONDS)
            raise NotNow(f"{self.name}: vLLM does not start: {one_line(str(error))[:500]}") from None

    def close(self) -> None:
        """Returns when vLLM's processes are gone."""
        if self._engine is not None:
            self._engine.engine_core.shutdown(timeout=END_SECONDS)
            self._engine = None
            self._processes.end(END_SECONDS)

    # --- the three verbs ---

    def generate(
        self, requests: Sequence[GenerateRequest], arrived: Callable[[int, Generated], None] = silent
    ) -> list[Generated]:
        replies: dict[int, Generated] = {}

        def asked() -> Iterable[tuple[int, Ids, SamplingParams]]:
            for i, request in enumerate(requests):
                prompt = self.prompts.of_messages(request.messages)
                form = None if request.constraint is None else form_of(request.constraint)
                settings: dict[str, Any] = {"temperature": request.temperature, "max_tokens": request.max_tokens}
                yield i, prompt, sampling(**settings, seed=seed_of(prompt, request.draw), structured_outputs=form)

        def take(i: int, output: Any) -> None:
            if isinstance(output, str):
                replies[i] = Generated("", False, NOTHING, output)
            else:
                (reply,) = output.outputs
                usage = usage_of(output, len(output.prompt_token_ids), len(reply.token_ids))
                replies[i] = Generated(reply.text, reply.finish_reason == "stop", usage)
            arrived(i, replies[i])

        self._run(asked(), take)
        return [replies[i] for i in range(len(requests))]

    def choose(
        self, requests: Sequence[ChooseRequest], arrived: Callable[[int, Chosen], None] = silent
    ) -> list[Chosen]:
        replies: dict[int, Chosen] = {}
        choices = [[self.prompts.ids(choice) for choice in request.choices] for request in requests]
        tables: dict[int, dict[Way, dict[int, float]]] = {}
        usages: dict[int, Usage] = {}

        def asked() -> Iterable[tuple[tuple[int, Way], Ids, SamplingParams]]:
            for i in (i for members in grouped(requests) for i in members):
                prompt, tables[i] = self.prompts.of_messages(requests[i].messages), {}
                for way, tokens in ways_on(choices[i]).items():
                    yield (i, way), [*prompt, *way], sampling(logprob_token_ids=tokens, detokenize=False)

        def take(key: tuple[int, Way], output: Any) -> None:
            i, way = key
            if i in replies:
                return
            if isinstance(output, str):
                replies[i] = Chosen((-float("inf"),) * len(choices[i]), NOTHING, output)
            else:
                tables[i][way] = {token: told.logprob for token, told in output.outputs[0].logprobs[0].items()}
                if not way:
                    usages[i] = usage_of(output, len(output.prompt_token_ids), 0)
                if len(tables[i]) < len(ways_on(choices[i])):
                    return
                replies[i] = Chosen(tuple(total(tables[i], choice) for choice in choices[i]), usages[i])
            del tables[i]
            arrived(i, replies[i])

        self._run(asked(), take)
        return [replies[i] for i in range(len(requests))]

    def log_likelihood(
        self, requests: Sequence[LikelihoodRequest], arrived: Callable[[int, Likelihood], None] = silent
    ) -> list[Likelihood]:
        """Computes each text anew: vLLM keeps no log-probabilities of what is in its prefix cache."""
        replies: dict[int, Likelihood] = {}
        lengths: dict[int, int] = {}

        def asked() -> Iterable[tuple[int, Ids, SamplingParams]]:
            for i, request in enumerate(requests):
                text, continuation = self.prompts.of_text(request.text), self.prompts.ids(request.continuation)
                lengths[i] = len(text)
                yield i, text + continuation, sampling(prompt_logprobs=0, detokenize=False)

        def take(i: int, output: Any) -> None:
            if isinstance(output, str):
                replies[i] = Likelihood(-float("inf"), 0, NOTHING, output)
            else:
                tokens = list(zip(output.prompt_token_ids, output.prompt_logprobs, strict=True))[lengths[i] :]
                log_probability = float(sum(told[token].logprob for token, told in tokens))
                replies[i] = Likelihood(log_probability, len(tokens), usage_of(output, lengths[i], 0))
            arrived(i, replies[i])

        self._run(asked(), take)
        return [replies[i] for i in range(len(requests))]

    def _run(self, asked: Iterable[tuple[Key, Ids, SamplingParams]], take: Callable[[Key, Any], None]) -> None:
        """Hand over vLLM's output for each prompt as it is ready, or why there is none.

        Raises:
            NotNow: vLLM ended; the next call starts it again.
        """
        if self._engine is None:
            self._engine = self._start()
        waiting, in_flight = iter(asked), dict[str, Key]()
        try:
            while True:
                while len(in_flight) < IN_FLIGHT and (following := next(waiting, None)) is not None:
                    key, prompt, parameters = following
                    number = str(next(self._numbers))
                    try:
                        self._engine.add_request(number, {"prompt_token_ids": prompt}, parameters)
                        in_flight[number] = key
                    except (ValueError, VLLMValidationError) as error:
                        take(key, one_line(str(error)))
                if not in_flight:
                    return
                for output in self._engine.step():
                    reason = output.outputs[0].finish_reason
                    useful = reason in ("stop", "length")
                    take(in_flight.pop(output.request_id), output if useful else f"vLLM ended the reply: {reason}")
        except EngineDeadError:
            in_flight.clear()
            self.close()
            raise NotNow(f"{self.name}: vLLM's process ended; what it said stands above") from None
        finally:
            if in_flight:
                self._engine.abort_request([*in_flight])


def sampling(max_tokens: int = 1, temperature: float = 0.0, **settings: Any) -> SamplingParams:
    settings |= {"max_tokens": max_tokens, "temperature": temperature}
    return SamplingParams(**settings, output_kind=RequestOutputKind.FINAL_ONLY)


def form_of(constraint: Constraint) -> StructuredOutputsParams:
    if constraint.form == "choice":
        return StructuredOutputsParams(choice=[*constraint.content])
    if constraint.form == "regex":
        return StructuredOutputsParams(regex=str(constraint.content))
    return StructuredOutputsParams(json=str(constraint.content))


def usage_of(output: Any, prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(prompt_tokens, min(prompt_tokens, output.num_cached_tokens or 0), completion_tokens)
