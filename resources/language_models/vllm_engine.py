"""A language model run on this machine by vLLM: prompts as in the transformers engine, replies that mean the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resources.language_models.prompts import Ids, Prompts, Way, grouped, log_sum, seed_of, total, ways_on
from resources.language_models.protocol import (
    FORMS,
    Capability,
    ChooseRequest,
    Chosen,
    Form,
    Generated,
    GenerateRequest,
    Likelihood,
    LikelihoodRequest,
    Usage,
    silent,
)
from resources.language_models.vllm_process import Vllm, sampling
from resources.tokenizers import load_tokenizer

CODE_VERSION = "2"
"Raise it, here and in `protocol.CODE_VERSIONS`, when the same request gets another reply."

NOTHING = Usage(0, 0, 0)


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
        self._vllm = Vllm(
            self.name,
            model=str(path),
            revision=revision,
            dtype=dtype,
            tensor_parallel_size=tensor_parallel_size,
            gpu_memory_utilization=gpu_memory_utilization,
            max_model_len=max_model_len,
            enforce_eager=enforce_eager,
            kv_cache_memory_bytes=None if kv_cache_gb is None else int(kv_cache_gb * 2**30),
            enable_prefix_caching=True,
            trust_remote_code=False,
            use_tqdm_on_load=False,
            # The same grammars as the transformers engine has.
            structured_outputs_config={"backend": "guidance", "disable_any_whitespace": True},
        )

    def close(self) -> None:
        self._vllm.close()

    # --- the three verbs ---

    def generate(
        self, requests: Sequence[GenerateRequest], arrived: Callable[[int, Generated], None] = silent
    ) -> list[Generated]:
        replies: dict[int, Generated] = {}

        def asked() -> Iterable[tuple[int, Ids, Any]]:
            for i, request in enumerate(requests):
                prompt = self.prompts.of_messages(request.messages)
                seed = seed_of(prompt, request.draw)
                asks: dict[str, Any] = {"seed": seed, "detokenize": False}
                yield i, prompt, sampling(request.max_tokens, request.temperature, request.constraint, **asks)

        def take(i: int, output: Any) -> None:
            if isinstance(output, str):
                replies[i] = Generated("", False, NOTHING, output)
            else:
                (reply,) = output.outputs
                usage = usage_of(output, len(output.prompt_token_ids), len(reply.token_ids))
                # Not the text that vLLM makes of it: its tokenizer may be one that loses spaces.
                text = self.prompts.tokenizer.decode(list(reply.token_ids), skip_special_tokens=True)
                replies[i] = Generated(text, reply.finish_reason == "stop", usage)
            arrived(i, replies[i])

        self._vllm.run(asked(), take)
        return [replies[i] for i in range(len(requests))]

    def choose(
        self, requests: Sequence[ChooseRequest], arrived: Callable[[int, Chosen], None] = silent
    ) -> list[Chosen]:
        replies: dict[int, Chosen] = {}
        choices = [self.prompts.of_choices(request) for request in requests]
        ways = [ways_on(ids for spellings in each for ids in spellings) for each in choices]
        tables: dict[int, dict[Way, dict[int, float]]] = {}
        usages: dict[int, Usage] = {}

        def asked() -> Iterable[tuple[tuple[int, Way], Ids, Any]]:
            for i in (i for members in grouped(requests) for i in members):
                prompt, tables[i] = self.prompts.of_messages(requests[i].messages), {}
                for way, tokens in ways[i].items():
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
                if len(tables[i]) < len(ways[i]):
                    return
                log_probabilities = (log_sum(total(tables[i], ids) for ids in spellings) for spellings in choices[i])
                replies[i] = Chosen(tuple(log_probabilities), usages[i])
            del tables[i]
            arrived(i, replies[i])

        self._vllm.run(asked(), take)
        return [replies[i] for i in range(len(requests))]

    def log_likelihood(
        self, requests: Sequence[LikelihoodRequest], arrived: Callable[[int, Likelihood], None] = silent
    ) -> list[Likelihood]:
        """Computes each text anew: vLLM keeps no log-probabilities of what is in its prefix cache."""
        replies: dict[int, Likelihood] = {}
        lengths: dict[int, int] = {}

        def asked() -> Iterable[tuple[int, Ids, Any]]:
            for i, request in enumerate(requests):
                ids, lengths[i] = self.prompts.of_likelihood(request)
                yield i, ids, sampling(prompt_logprobs=0, detokenize=False)

        def take(i: int, output: Any) -> None:
            if isinstance(output, str):
                replies[i] = Likelihood(-float("inf"), 0, NOTHING, output)
            else:
                tokens = list(zip(output.prompt_token_ids, output.prompt_logprobs, strict=True))[lengths[i] :]
                log_probability = float(sum(told[token].logprob for token, told in tokens))
                replies[i] = Likelihood(log_probability, len(tokens), usage_of(output, lengths[i], 0))
            arrived(i, replies[i])

        self._vllm.run(asked(), take)
        return [replies[i] for i in range(len(requests))]


def usage_of(output: Any, prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(prompt_tokens, min(prompt_tokens, output.num_cached_tokens or 0), completion_tokens)
