"""A door on the way to ClickHouse: shut, what a worker sends waits in front of it."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Gate:
    """A proxy of one HTTP address; use as a context manager.

    Threads: two per connection, which end with it.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        user = parts.netloc.rpartition("@")[0]
        self.url = f"{parts.scheme}://{user}@127.0.0.1:{port}{parts.path}"
        self.held = threading.Event()
        self._is_open = threading.Event()
        self._is_open.set()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()
        for side in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()
        for thread in self._threads:
            thread.join()

    def shut(self) -> None:
        """Hold what comes from now on; `held` tells that something waits."""
        self.held.clear()
        self._is_open.clear()

    def open(self) -> None:
        """Let it through, and all that follows."""
        self._is_open.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                for ends in ((client, server), (server, client)):
                    thread = threading.Thread(
                        target=self._pass, args=(*ends, ends[0] is client), daemon=True
                    )
                    self._threads.append(thread)
                    thread.start()

    def _pass(self, giver: socket.socket, taker: socket.socket, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while data := giver.recv(65_536):
                if is_request and not self._is_open.is_set():
                    self.held.set()
                    self._is_open.wait()
                taker.sendall(data)
        with contextlib.suppress(OSError):
            taker.shutdown(socket.SHUT_WR)
