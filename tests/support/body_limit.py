"""HTTP proxy that takes no request body above a limit, as proxies before ClickHouse do."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_TOO_LARGE = b"<html><body><h1>413 Request Entity Too Large</h1></body></html>"


class BodyLimit:
    """Forwards to the server of `target()`; `limit` may change at any time. A context manager.

    `refused` counts the requests that were too large, `passed` the others. With `tls` it speaks
    https, one connection per request.
    """

    def __init__(
        self, target: Callable[[], str], limit: int, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.target, self.limit = target, limit
        self.refused = self.passed = 0
        handler = type("Handler", (_Forward,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.is_secure = tls is not None
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}
        )

    def __enter__(self) -> BodyLimit:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The target's URL with this proxy's address."""
        parts = urlsplit(self.target())
        login = parts.netloc.rpartition("@")[0]
        port = self._server.server_address[1]
        scheme = "https" if self.is_secure else "http"
        return urlunsplit(parts._replace(scheme=scheme, netloc=f"{login}@127.0.0.1:{port}"))


class _Forward(BaseHTTPRequestHandler):
    proxy: BodyLimit
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._forward()

    def do_POST(self) -> None:
        self._forward()

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if len(body) > self.proxy.limit:
            self.proxy.refused += 1
            self._answer(413, {"Content-Type": "text/html"}, _TOO_LARGE)
            return
        self.proxy.passed += 1
        try:
            status, headers, data = self._ask(body)
        except OSError:
            status, headers, data = 502, {}, b"no answer"
        self._answer(status, headers, data)

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(self.proxy.target())
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
        hop = {"transfer-encoding", "connection", "keep-alive", "content-length"}
        headers = {name: text for name, text in answer.getheaders() if name.lower() not in hop}
        return answer.status, headers, data

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(data)))
            if self.proxy.is_secure:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""
