"""A small server with OpenAI's interface, for tests and benchmarks, that answers by the rule of the oracle.

It runs in a process of its own and fails as it is told to. `GET /told` tells what it was asked and what it answered.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.oracle import OracleEngine

PROCESSES = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Manners:
    """How the server behaves; shares are of all requests."""

    latency: float = 0.0
    "Seconds."
    capacity: int = 10_000
    "How many are worked on at once; others wait."
    malformed: float = 0.0
    resets: float = 0.0
    too_many: float = 0.0
    "Answered 429, with `Retry-After: retry_after`."
    retry_after: str = "0.05"
    rate: float | None = None
    "Good answers a second, a second's worth of them at once; what comes above that is answered 429, at once."
    errors: float = 0.0
    "Answered 500."
    hangs: float = 0.0
    "Answered after a minute."
    first: tuple[int, ...] = ()
    "The status of the first answers; 200 is a good one, 0 a reset."
    down_after: int | None = None
    "After so many good replies it only answers 503."
    refuse: str | None = None
    "Prompts with this text are answered 400."
    poison: str | None = None
    "Prompts with this text are answered 500."
    usage: str = "right"
    "Or `missing`, or `absurd`."
    cached_tokens: int = 0
    chat: bool = True
    system_role: bool = True
    "Otherwise chats with a system message are answered 400."
    limit: str = "max_tokens"
    "The field for it that is taken; chats with the other one are answered 400."
    log_probabilities: bool = True
    echo: bool = True
    forms: tuple[str, ...] = ("json_schema", "regex", "choice")
    "Those that it holds replies to."
    other_forms: str = "ignored"
    "Or `refused`."
    key: str | None = None
    model: str = "oracle"
    seed: int = 0


@dataclass
class Told:
    requests: int = 0
    answered: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    most_at_once: int = 0
    too_early: int = 0
    "Requests that came before Retry-After had passed."
    prompts: list[str] = field(default_factory=list)
    "The last message of each request, in the order in which they came; no more than 10,000."
    lengths: list[int] = field(default_factory=list)
    "Of each of these requests all its messages, in words."


class BenchServer:
    def __init__(self, manners: Manners) -> None:
        self.manners = manners
        self.told = Told()
        self.oracle = OracleEngine()
        self.draw = random.Random(manners.seed)
        self.free = asyncio.Semaphore(manners.capacity)
        self.at_once = 0
        self.not_before = 0.0
        self.allowed, self.counted = 0.0, time.monotonic()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests one after the other. HTTP is as simple as our client's requests allow."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = first.split()
                if method == "GET":
                    reply: Reply = (200, vars(self.told), {})
                else:
                    self.at_once += 1
                    self.told.most_at_once = max(self.told.most_at_once, self.at_once)
                    try:
                        reply = await self.answer(path, headers, json.loads(body))
                    finally:
                        self.at_once -= 1
                status, content, extra = reply
                if status == 0:
                    writer.transport.abort()
                    return
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                extra = extra | {"Content-Type": "application/json", "Content-Length": str(len(raw))}
                told = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
                writer.write(f"HTTP/1.1 {status} X\r\n{told}\r\n".encode() + raw)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, path: str, headers: dict[str, str], asked: dict[str, Any]) -> Reply:
        told, manners, number = self.told, self.manners, self.told.requests
        told.requests += 1
        told.too_early += time.monotonic() < self.not_before
        prompt = asked["messages"][-1]["content"] if "messages" in asked else asked["prompt"]
        if len(told.prompts) < 10_000:
            told.prompts.append(prompt)
            messages = asked.get("messages", [{"content": prompt}])
            told.lengths.append(sum(len(message["content"].split()) for message in messages))
        if manners.rate is not None and not self.within(manners.rate):
            return self.too_many()
        async with self.free:
            await asyncio.sleep(manners.latency)
        if manners.key is not None and headers.get("authorization") != f"Bearer {manners.key}":
            return refusal(401, f"Incorrect API key provided: {headers.get('authorization')}")
        if path not in ("/v1/completions", *(["/v1/chat/completions"] if manners.chat else [])):
            return refusal(404, f"no such path: {path}")
        if asked["model"] != manners.model:
            return refusal(404, f"The model `{asked['model']}` does not exist")
        told_first = manners.first[number] if number < len(manners.first) else None
        if told_first == 429:
            return self.too_many()
        if told_first not in (None, 200):
            return refusal(told_first, "as told")
        if manners.down_after is not None and told.answered >= manners.down_after:
            return refusal(503, "down")
        if not manners.system_role and any(message["role"] == "system" for message in asked.get("messages", ())):
            return refusal(400, "System role not supported")
        if "messages" in asked and manners.limit not in asked:
            return refusal(400, f"Unsupported parameter; use '{manners.limit}' instead")
        if manners.refuse and manners.refuse in prompt:
            return refusal(400, "This model's maximum context length is 8 tokens")
        if manners.poison and manners.poison in prompt:
            return refusal(500, "poison")
        fate = 1.0 if told_first else self.draw.random()
        for kind in ("malformed", "resets", "too_many", "errors", "hangs"):
            if fate < getattr(manners, kind):
                return await self.fail(kind)
            fate -= getattr(manners, kind)
        if manners.other_forms == "refused" and (unknown := set(forms_asked(asked)) - set(manners.forms)):
            return refusal(400, f"Unknown form: {unknown}")
        told.answered += 1
        return 200, self.completion(asked, prompt), {}

    async def fail(self, kind: str) -> Reply:
        if kind == "malformed":
            whole = json.dumps(self.completion({"messages": [], "max_tokens": 1}, "", count=False)).encode()
            senseless = (
                b"<html>502</html>",
                b"{}",
                b'{"choices": []}',
                b'{"choices": [{"message": null}]}',
                b"",
                b"[1]",
            )
            bodies = (*senseless, whole[: len(whole) // 2])
            return 200, self.draw.choice(bodies), {}
        if kind == "hangs":
            await asyncio.sleep(60)
        if kind == "too_many":
            return self.too_many()
        return refusal(0 if kind == "resets" else 500, "as told")

    def within(self, rate: float) -> bool:
        """Whether one more is within the rate: a token bucket."""
        now = time.monotonic()
        self.allowed = min(max(1.0, rate), self.allowed + (now - self.counted) * rate)
        self.counted = now
        if self.allowed < 1:
            return False
        self.allowed -= 1
        return True

    def too_many(self) -> Reply:
        self.not_before = time.monotonic() + float(self.manners.retry_after)
        return refusal(429, "slow down", {"Retry-After": self.manners.retry_after})

    def completion(self, asked: dict[str, Any], prompt: str, count: bool = True) -> dict[str, Any]:
        manners, chat = self.manners, "messages" in asked
        texts = [message["content"] for message in asked["messages"]] if chat else [prompt]
        text, tops = "Yes", {"Yes": -0.1, " Yes": -9.0, "No": -3.0}
        if "Excerpt 1:" in prompt or "Text 1:" in prompt:
            # Without a chat format worked examples stand before.
            text = self.oracle.answer((), prompt[max(0, prompt.rfind("Excerpt 1:")) :])
        elif "the word " in prompt and "\nText: " in prompt:
            explanation, judged = prompt[prompt.rfind("Description: ") :].split("\n")[:2]
            yes = self.oracle.fits(explanation, judged.removeprefix("Text: "))
            tops = {"Yes": -0.1, "No": -3.0} if yes else {"No": -0.1, "Yes": -3.0}
            text = "Yes" if yes else "No"
        else:
            asked_for = [answer for form, answer in forms_asked(asked).items() if form in manners.forms]
            text = asked_for[0] if asked_for else text
        tops |= {f"other{i}": -10.0 - i for i in range(20 - len(tops))}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if chat and asked.get("logprobs") and manners.log_probabilities:
            listed = [{"token": token, "logprob": value, "bytes": None} for token, value in tops.items()]
            choice["logprobs"] = {"content": [{"token": text, "logprob": -0.1, "top_logprobs": listed}]}
        elif not chat and asked.get("echo") and manners.echo:
            # As vLLM does: a BOS token stands before, one new token behind; tokens are words with the space before.
            tokens = ["<s>", *re.findall(r"\s*\S+", prompt), " new"]
            offsets = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
            values = [None, *(-float(i) for i in range(1, len(tokens)))]
            choice["logprobs"] = {"tokens": tokens, "text_offset": offsets, "token_logprobs": values}
        elif not chat and asked.get("logprobs") and manners.log_probabilities and not asked.get("echo"):
            choice["logprobs"] = {"tokens": [text], "top_logprobs": [tops]}
        prompt_tokens, completion_tokens = len(" ".join(texts).split()), len(text.split())
        usage: Any = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "prompt_tokens_details": {"cached_tokens": manners.cached_tokens},
        }
        if count:
            self.told.prompt_tokens += prompt_tokens
            self.told.cached_tokens += manners.cached_tokens
            self.told.completion_tokens += completion_tokens
        if manners.usage == "absurd":
            usage = {
                "prompt_tokens": -5,
                "completion_tokens": "many",
                "prompt_tokens_details": {"cached_tokens": 10**12},
            }
        found = {"id": "x", "object": "completion", "model": asked.get("model"), "choices": [choice]}
        return found if manners.usage == "missing" else found | {"usage": usage}


Reply = tuple[int, Any, dict[str, str]]


def forms_asked(asked: dict[str, Any]) -> dict[str, str]:
    """The forms that a request asks for, each with an answer that has it; a regular expression stands for itself."""
    found = {
        form: content if form == "regex" else content[0]
        for form, content in asked.get("structured_outputs", {}).items()
    }
    if "response_format" in asked:
        schema = asked["response_format"]["json_schema"]["schema"]
        found["json_schema"] = json.dumps({name: each["enum"][0] for name, each in schema["properties"].items()})
    return found


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> Reply:
    return status, {"error": {"message": message, "type": "told"}}, headers or {}


async def run(manners: Manners, port: int, ready: Any) -> None:
    server = await asyncio.start_server(BenchServer(manners).serve, "127.0.0.1", port, limit=2**22, backlog=1024)
    ready.put(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def run_in_process(manners: Manners, port: int, ready: Any) -> None:
    asyncio.run(run(manners, port, ready))


@dataclass
class Serving:
    url: str
    process: Any

    def told(self) -> Told:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/told") as reply:  # noqa: S310 its own address
            return Told(**json.load(reply))


def start(manners: Manners, port: int = 0) -> Serving:
    ready = PROCESSES.Queue()
    process = PROCESSES.Process(target=run_in_process, args=(manners, port, ready), daemon=True)
    process.start()
    return Serving(f"http://127.0.0.1:{ready.get(timeout=120)}/v1", process)


@contextmanager
def serving(manners: Manners, port: int = 0) -> Iterator[Serving]:
    started = start(manners, port)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
