"""A web server of a test's own, which breaks connections where it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Serves `files` by their paths; notes what it was asked for, and breaks connections after `cuts` bytes, one for
    each."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.tag = '"one"'
        self.kind = "application/json"
        self.cuts: list[int] = []
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        """The address below which the files lie."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        content, part = self.server.files.get(self.path), self.headers.get("Range")
        if content is None:
            self.send_error(404)
            return
        self.server.asked.append((self.path, part))
        if self.headers.get("If-Range") != self.server.tag:
            part = None
        begin = int(part.removeprefix("bytes=").rstrip("-")) if part else 0
        if part and begin >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if part else 200)
        self.send_header("Content-Type", self.server.kind)
        self.send_header("Content-Length", str(len(content) - begin))
        if self.server.tag:
            self.send_header("ETag", self.server.tag)
        self.end_headers()
        end = begin + self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[begin:end])

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[FileServer]:
    """A server while the block lasts."""
    server = FileServer(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
