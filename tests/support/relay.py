"""TCP relay between a client and a server, which cuts connections for a test."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any


class Relay:
    """Forwards to `target` ("host:port") from `address`; use as a context manager.

    `cut_after(up=n)` resets the connection after n bytes to the server, `cut_after(down=n)` after n
    bytes from it, and so the next connections, `times` times. `damage_after(up=n)` flips one bit of
    a byte behind the first n. Threads: one for each direction.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._left: dict[str, int] = {}
        self._times = 0
        self.cuts = self.damaged = 0
        self._until_damage = 0
        self.moved = {"up": 0, "down": 0}

    def __enter__(self) -> Relay:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def cut_after(self, *, up: int = 0, down: int = 0, times: int = 1) -> None:
        """Cut after this many more bytes in one direction, `times` times."""
        with self._lock:
            self._left = {"up": up, "down": down}
            self._limit = dict(self._left)
            self._times = times

    def damage_after(self, *, up: int) -> None:
        """Flip a bit in the next block sent to the server after this many more bytes."""
        with self._lock:
            self._until_damage = up

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            self._start(self._pump, client, server, "up")
            self._start(self._pump, server, client, "down")

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._is_cut(way, len(data)):
                    break
                sink.sendall(self._flipped(data) if way == "up" else data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
        source.close()

    def _is_cut(self, way: str, count: int) -> bool:
        with self._lock:
            self.moved[way] += count
            if not self._times or not self._left.get(way):
                return False
            self._left[way] = max(0, self._left[way] - count)
            if self._left[way]:
                return False
            self._times -= 1
            self.cuts += 1
            self._left = dict(self._limit)
            return True

    def _flipped(self, data: bytes) -> bytes:
        with self._lock:
            if not self._until_damage:
                return data
            self._until_damage = max(0, self._until_damage - len(data))
            if self._until_damage:
                return data
            self.damaged += 1
        return data[:-1] + bytes([data[-1] ^ 1])

    def _start(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()
