"""A server of one's own making in a thread: what it answers is a function of path and request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Asked = dict[str, Any]
Reply = tuple[int, Any]
Answer = Callable[[str, Asked], Reply]


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Answer) -> None:
        self.calls: list[tuple[str, Asked]] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                path = self.path.removeprefix("/v1/")
                served.calls.append((path, asked))
                status, body = answer(path, asked)
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def answering(answer: Answer) -> Iterator[FakeServer]:
    server = FakeServer(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def error(status: int, message: str, **more: Any) -> Reply:
    return status, {"error": {"message": message, "type": "invalid_request_error", **more}}


def chat(
    content: Any, finish: str = "stop", listed: Sequence[tuple[str, float]] | None = None, **message: Any
) -> Reply:
    """A reply in a chat; the first of the listed tokens is the one that was drawn."""
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": content, **message},
        "logprobs": None if listed is None else {"content": [first_token(listed)]},
    }
    return 200, {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}


def first_token(listed: Sequence[tuple[str, float]]) -> dict[str, Any]:
    told = [{"token": token, "logprob": value, "bytes": [*token.encode()]} for token, value in listed]
    return told[0] | {"top_logprobs": told} if told else {"token": "Yes", "logprob": -0.1, "top_logprobs": []}


def only_chats(answer: Callable[[Asked], Reply]) -> Answer:
    return lambda path, asked: (
        answer(asked)
        if path == "chat/completions"
        else error(404, "This is not supported in the v1/completions endpoint.")
    )
