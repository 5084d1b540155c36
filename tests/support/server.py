"""An HTTP server on this machine that misbehaves as told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What the server has, how it behaves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    codes: dict[str, list[int]] = field(default_factory=dict)  # answered first, one a request
    cuts: dict[str, list[int]] = field(default_factory=dict)  # bytes sent before a cut
    kinds: dict[str, str] = field(default_factory=dict)
    etag: str | None = '"one"'
    ranges: bool = True
    length: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, range

    def add(self, name: str, content: bytes) -> str:
        """Serve a file; returns its address."""
        self.files[f"/{name}"] = content
        return f"{self.url}/{name}"


@contextmanager
def serve() -> Iterator[Server]:
    """A server on a free port of 127.0.0.1 for the time of the block."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, state)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield state
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def _answer(handler: BaseHTTPRequestHandler, state: Server) -> None:
    path, wanted = handler.path, handler.headers.get("Range")
    state.asked.append((path, wanted))
    if path in state.redirects:
        handler.send_response(302)
        handler.send_header("Location", state.redirects[path])
        handler.end_headers()
        return
    codes = state.codes.get(path)
    code = codes.pop(0) if codes else 200 if path in state.files else 404
    if code != 200:
        handler.send_error(code)
        return
    body = state.files[path]
    start = _start(handler, state, wanted)
    if start >= len(body) > 0:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(body)}")
        handler.end_headers()
        return
    _send(handler, state, body, start)


def _start(handler: BaseHTTPRequestHandler, state: Server, wanted: str | None) -> int:
    condition = handler.headers.get("If-Range")
    if not wanted or not state.ranges or (condition and condition != state.etag):
        return 0
    return int(wanted.removeprefix("bytes=").removesuffix("-"))


def _send(handler: BaseHTTPRequestHandler, state: Server, body: bytes, start: int) -> None:
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    handler.send_header("Content-Type", state.kinds.get(handler.path, "application/octet-stream"))
    if state.length:
        handler.send_header("Content-Length", str(len(body) - start))
    if state.etag:
        handler.send_header("ETag", state.etag)
    handler.end_headers()
    cuts = state.cuts.get(handler.path)
    handler.wfile.write(body[start : start + cuts.pop(0)] if cuts else body[start:])
