"""A small file server on the loopback, as well and as badly behaved as a test asks."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from dataclasses import dataclass, field


@dataclass
class Behaviour:
    content: bytes
    knows_ranges: bool = True
    etag: str | None = '"one"'
    breaks_after: list[int] = field(
        default_factory=list
    )  # bytes each connection sends before it breaks, then whole ones
    statuses: list[int] = field(default_factory=list)  # of the first answers; then 200 or 206
    content_type: str = "application/octet-stream"
    has_length: bool = True
    pause: threading.Event | None = None  # waits for it after `breaks_after` bytes instead of breaking
    wrong_start: bool = False
    asked: list[str | None] = field(default_factory=list)  # Range of every request


class _Handler(http.server.BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self):
        self.behaviour.asked.append(self.headers.get("Range"))
        if self.behaviour.statuses:
            self.send_error(self.behaviour.statuses.pop(0))
            return
        start = self._start()
        if start >= len(self.behaviour.content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.behaviour.content)}")
            self.end_headers()
            return
        self._headers(start)
        self._body(self.behaviour.content[start:])

    def _start(self):
        span = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        same = self.headers.get("If-Range") in (None, self.behaviour.etag)
        return int(span[1]) if span and same and self.behaviour.knows_ranges else 0

    def _headers(self, start):
        total = len(self.behaviour.content)
        self.send_response(206 if start else 200)
        if start:
            told = start - 1 if self.behaviour.wrong_start else start
            self.send_header("Content-Range", f"bytes {told}-{total - 1}/{total}")
        if self.behaviour.has_length:
            self.send_header("Content-Length", str(total - start))
        self.send_header("Content-Type", self.behaviour.content_type)
        if self.behaviour.etag:
            self.send_header("ETag", self.behaviour.etag)
        self.end_headers()

    def _body(self, body):
        with contextlib.suppress(ConnectionError):
            if not self.behaviour.breaks_after:
                self.wfile.write(body)
                return
            self.wfile.write(body[: self.behaviour.breaks_after.pop(0)])
            self.wfile.flush()
            if self.behaviour.pause is not None:
                self.behaviour.pause.wait(30)
            self.close_connection = True

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(behaviour):
    """The address of a file that a server on the loopback serves while the block lasts."""
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/tiny.pth"
        finally:
            server.shutdown()
            thread.join()
