"""vLLM in processes of its own: start it, keep its queue full, end it and all that it holds.

With those processes goes the model's memory, on whatever device, so that another model fits afterwards. They are
started afresh, never forked: a copy of a process whose libraries run threads may hang.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from itertools import count
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
from resources.language_models.prompts import Ids
from resources.language_models.protocol import Constraint

IN_FLIGHT = 512
"Requests given to vLLM at once: more than it computes at a time, so that it never waits for the next."
END_SECONDS = 30.0
"For its processes to end by themselves."
LOOK_SECONDS = 1.0
"How often it is looked whether they live."

Key = TypeVar("Key")


class Vllm:
    def __init__(self, name: str, **arguments: Any) -> None:
        """
        Args:
            name: of the model, for messages.
            arguments: those of `vllm.LLM`.

        Raises:
            NotNow: it does not start.
        """
        self._name = name
        self._arguments = arguments
        self._numbers = count()
        self._start()

    def _start(self) -> None:
        self._processes = ChildProcesses()
        try:
            with self._processes.watching():
                self._engine: Any = LLM(**self._arguments).llm_engine
        except Exception as error:
            self._processes.end(END_SECONDS)
            raise NotNow(f"{self._name}: vLLM does not start: {one_line(str(error), 500)}") from None
        self._closed = threading.Event()
        threading.Thread(target=tell_of_death, args=(self._engine.engine_core, self._closed), daemon=True).start()

    def close(self) -> None:
        """Returns when its processes are gone."""
        if self._engine is not None:
            self._closed.set()
            self._engine.engine_core.shutdown(timeout=END_SECONDS)
            self._engine = None
            self._processes.end(END_SECONDS)

    def run(self, asked: Iterable[tuple[Key, Ids, SamplingParams]], take: Callable[[Key, Any], None]) -> None:
        """Hand over the output for each prompt as it is ready, or in words why there is none.

        Raises:
            NotNow: vLLM ended; the next call starts it again.
        """
        if self._engine is None:
            self._start()
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
            raise NotNow(f"{self._name}: vLLM's process ended; what it said stands above") from None
        finally:
            if in_flight:
                self._engine.abort_request([*in_flight])


def tell_of_death(core: Any, closed: threading.Event) -> None:
    """vLLM sees that its process was killed, and yet leaves whoever waits for its output waiting."""
    while not closed.wait(LOOK_SECONDS):
        if core.resources.engine_dead:
            core.outputs_queue.put_nowait(EngineDeadError())
            return


def sampling(
    max_tokens: int = 1, temperature: float = 0.0, constraint: Constraint | None = None, **settings: Any
) -> SamplingParams:
    form = None if constraint is None else form_of(constraint)
    settings |= {"max_tokens": max_tokens, "temperature": temperature, "structured_outputs": form}
    return SamplingParams(**settings, output_kind=RequestOutputKind.FINAL_ONLY)


def form_of(constraint: Constraint) -> StructuredOutputsParams:
    if constraint.form == "choice":
        return StructuredOutputsParams(choice=[*constraint.content])
    if constraint.form == "regex":
        return StructuredOutputsParams(regex=str(constraint.content))
    return StructuredOutputsParams(json=str(constraint.content))
