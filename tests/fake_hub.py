"""A Hugging Face hub of one's own: a server on this machine that answers what the hub's own client asks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants


class FakeHub:
    """Repositories by name: at each commit, files by path; branches are names of commits."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []

    def push(self, name: str, folder: Path, branch: str = "main") -> str:
        """The files of a folder become what a branch holds; the commit."""
        files = {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
        digest = hashlib.sha1(name.encode(), usedforsecurity=False)
        for path, content in files.items():
            digest.update(path.encode() + content)
        commit = digest.hexdigest()
        self.commits.setdefault(name, {})[commit] = files
        self.branches.setdefault(name, {})[branch] = commit
        return commit

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            return self._api("/".join(parts[2:4]), parts[4:])
        if len(parts) > 4 and parts[2] == "resolve":
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return missing("RepoNotFound")

    def _commit(self, name: str, revision: str) -> str | None:
        commit = self.branches.get(name, {}).get(revision, revision)
        return commit if commit in self.commits.get(name, {}) else None

    def _api(self, name: str, rest: list[str]) -> tuple[int, dict[str, str], bytes]:
        revision = rest[1] if len(rest) > 1 else "main"
        commit = self._commit(name, revision)
        if commit is None:
            return missing("RepoNotFound" if name not in self.commits else "RevisionNotFound")
        files = self.commits[name][commit]
        if rest[:1] == ["tree"]:
            tree = [{"type": "file", "path": p, "size": len(c), "oid": blob(c)} for p, c in files.items()]
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        told: dict[str, Any] = {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]}
        return 200, {"Content-Type": "application/json"}, json.dumps(told).encode()

    def _file(self, name: str, revision: str, path: str) -> tuple[int, dict[str, str], bytes]:
        commit = self._commit(name, revision)
        content = None if commit is None else self.commits[name][commit].get(path)
        if content is None:
            return missing("EntryNotFound")
        return 200, {"ETag": f'"{blob(content)}"', "X-Repo-Commit": str(commit)}, content


def blob(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def missing(code: str) -> tuple[int, dict[str, str], bytes]:
    return 404, {"X-Error-Code": code, "X-Error-Message": code}, b"{}"


@contextmanager
def serving(hub: FakeHub) -> Iterator[str]:
    """Inside, the hub is at the address that is given."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reach(monkeypatch: pytest.MonkeyPatch, address: str | None, cache: Path) -> None:
    """From here on the hub's client asks that address, or is offline where there is none, and keeps files there."""
    from huggingface_hub import hf_api

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", address is None)
    if address is not None:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(hf_api.api, "endpoint", address)
