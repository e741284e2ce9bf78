"""A stand-in for the Hugging Face hub on this machine, as HF_ENDPOINT names it: serves a folder."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub(ThreadingHTTPServer):
    """Serves ROOT/OWNER/NAME as models and ROOT/datasets/OWNER/NAME as data sets, each with one commit."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.requests: list[str] = []
        """Paths that were asked for."""

    @property
    def address(self) -> str:
        """Value of HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answers the requests that timm and datasets make through huggingface_hub."""

    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, *words: object) -> None:
        self.server.requests.append(self.path)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        repository, resolve, file = path.partition("/resolve/")
        if resolve:
            self.send_file(self.server.root / repository / file.partition("/")[2])
        elif path.startswith("api/datasets/"):
            owner, name, *rest = path.split("/")[2:]
            self.describe(self.server.root / "datasets" / owner / name, f"{owner}/{name}", rest)
        else:
            self.answer(404)

    do_HEAD = do_GET

    def send_file(self, path: Path) -> None:
        """Send a file of a repository."""
        if not path.is_file():
            return self.answer(404, x_error_code="EntryNotFound", x_repo_commit=COMMIT)
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.answer(200, content, etag=etag, x_repo_commit=COMMIT)

    def describe(self, folder: Path, name: str, rest: list[str]) -> None:
        """Send what the hub knows of a data set (``revision``) or the entries of a folder (``tree``)."""
        if rest[:1] in ([], ["revision"]):
            files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
            siblings = [{"rfilename": file} for file in files]
            return self.send_json({"id": name, "sha": COMMIT, "siblings": siblings})
        place = folder.joinpath(*rest[2:])
        if rest[0] != "tree" or not place.is_dir():
            return self.answer(404)
        return self.send_json([entry(path, folder) for path in sorted(place.iterdir())])

    def send_json(self, value: object) -> None:
        """Send plain values."""
        self.answer(200, json.dumps(value).encode(), content_type="application/json")

    def answer(self, code: int, content: bytes = b"", **headers: str) -> None:
        """Send a response."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def entry(path: Path, folder: Path) -> dict[str, object]:
    """Return the hub's description of a file or folder."""
    about: dict[str, object] = {"type": "directory", "oid": "0" * 40, "path": str(path.relative_to(folder))}
    return about | {"type": "file", "size": path.stat().st_size} if path.is_file() else about


@contextmanager
def serve(root: Path) -> Iterator[LocalHub]:
    """Run a `LocalHub`."""
    with LocalHub(root) as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
