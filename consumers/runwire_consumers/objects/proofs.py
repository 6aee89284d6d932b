"""Proofs that pieces make the content they claim to be, gathered while the pieces pass by.

A proof says: the pieces with these digests, in order, have this SHA-256. It saves reading a file
back from staging before it is joined. Without one, after a restart, the file is read back.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Final

# Each growing hash takes about half a kilobyte, each proof less.
_GROWING_MAX: Final = 1024
_KNOWN_MAX: Final = 16_384


class _Growing:
    __slots__ = ("content", "digests", "next_index")

    def __init__(self) -> None:
        self.content, self.digests = hashlib.sha256(), hashlib.sha256()
        self.next_index = 0


class Proofs:
    """Hashes of files that grow in order. Threads: `add` one at a time, `sha256_of` any."""

    def __init__(self) -> None:
        self._growing: OrderedDict[tuple[str, str], _Growing] = OrderedDict()
        self._known: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def add(
        self, file: tuple[str, str], index: int, count: int, *, digest: bytes, payload: bytes
    ) -> None:
        """Take piece `index` of `count`; only the next one of a file helps.

        `file` tells files apart: two artifacts may bring the same content at once.
        """
        growing = self._growing.get(file)
        if growing is None:
            if index:
                return
            growing = self._growing[file] = _Growing()
            if len(self._growing) > _GROWING_MAX:
                self._growing.popitem(last=False)
        if index != growing.next_index:
            return
        growing.content.update(payload)
        growing.digests.update(digest)
        growing.next_index += 1
        self._growing.move_to_end(file)
        if growing.next_index == count:
            del self._growing[file]
            with self._lock:
                self._known[growing.digests.hexdigest()] = growing.content.hexdigest()
                if len(self._known) > _KNOWN_MAX:
                    self._known.popitem(last=False)

    def sha256_of(self, digests: bytes) -> str | None:
        """Return what all pieces with these digests make, None when nobody has seen it."""
        with self._lock:
            return self._known.get(hashlib.sha256(digests).hexdigest())
