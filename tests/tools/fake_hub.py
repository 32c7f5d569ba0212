"""As much of the Hugging Face hub as pulls need, on loopback: listings, revisions, large files in parts, gates."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.tools.servers import serving

LARGE = 1000
"""Bytes from which on a file is stored by its SHA-256, as the hub does with files of megabytes."""


@dataclass
class FakeRepo:
    """A model on the hub."""

    revisions: dict[str, dict[str, bytes]]
    """Commit -> name -> content."""
    refs: dict[str, str]
    """Branch or tag -> commit."""
    gated: bool = False
    token: str = ""
    """The token that passes the gate."""
    break_at: int | None = None
    """Where the connection breaks that sends a large file, once."""
    sent: list[tuple[str, str]] = field(default_factory=list)
    """The files that were asked for, with their ``Range``."""


def handler_of(repos: dict[str, FakeRepo]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            for name, value in {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def send(self, body: bytes, commit: str = "", etag: str = "", start: int = 0, cut: int | None = None) -> None:
            self.send_response(206 if start else 200)
            headers = {"Content-Length": str(len(body) - start), "ETag": f'"{etag}"', "X-Repo-Commit": commit}
            if len(body) >= LARGE:
                headers["X-Linked-Size"] = str(len(body))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[start:cut])
                if cut is not None:
                    self.wfile.flush()
                    self.connection.close()

        def do_GET(self) -> None:
            path = self.path.split("?")[0].strip("/")
            parts = path.removeprefix("api/models/").split("/")
            repo = repos.get("/".join(parts[:2]))
            if repo is None:
                self.refuse(404, "RepoNotFound")
                return
            kind, revision = [*parts[2:4], "", ""][:2]
            name = "/".join(parts[4:])
            commit = repo.refs.get(revision or "main", revision)
            if commit not in repo.revisions:
                self.refuse(404, "RevisionNotFound")
            elif path.startswith("api/"):
                self.send(json.dumps(self.listing(parts, repo.revisions[commit], commit, kind == "tree")).encode())
            elif repo.gated and self.headers.get("Authorization") != f"Bearer {repo.token}":
                self.refuse(401, "GatedRepo")
            elif name not in repo.revisions[commit]:
                self.refuse(404, "EntryNotFound")
            else:
                self.file(repo, commit, name)

        def file(self, repo: FakeRepo, commit: str, name: str) -> None:
            body = repo.revisions[commit][name]
            asked = self.headers.get("Range", "")
            start, cut = int(asked.removeprefix("bytes=").rstrip("-") or 0), None
            if self.command == "GET":
                repo.sent.append((name, asked))
                if len(body) >= LARGE and repo.break_at is not None:
                    cut, repo.break_at = repo.break_at, None
            self.send(body, commit, digest(body), start, cut)

        def listing(self, parts: list[str], files: dict[str, bytes], commit: str, tree: bool) -> object:
            rows = []
            for name, body in files.items():
                lfs = {"lfs": {"oid": digest(body), "sha256": digest(body), "size": len(body), "pointerSize": 100}}
                more = lfs if len(body) >= LARGE else {}
                if tree:
                    rows.append({"type": "file", "path": name, "size": len(body), "oid": digest(body), **more})
                else:
                    rows.append({"rfilename": name, "size": len(body), "blobId": digest(body), **more})
            return rows if tree else {"id": "/".join(parts[:2]), "sha": commit, "siblings": rows}

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            return

    return Handler


def digest(body: bytes) -> str:
    """The name of a file's content: SHA-256 of a large one, SHA-1 of others."""
    return (hashlib.sha256 if len(body) >= LARGE else hashlib.sha1)(body).hexdigest()


def fake_hub(repos: dict[str, FakeRepo]) -> contextlib.AbstractContextManager[str]:
    """The address of a hub with these models, while it is open."""
    return serving(handler_of(repos))
