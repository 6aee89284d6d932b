"""Marks of blobs condemned by a sweep: they make sweeps and concurrent publications safe.

A publication writes the entry of its version, which names its blobs; then it looks for marks, then
for the blobs. A sweep writes a mark with the blobs it is about to delete; then it reads entries and
manifests, then deletes. So whichever starts second sees the other's record: the sweep spares the
blobs of a fresh entry; the publication waits until the mark is gone, or finds a blob missing and
reports it. Once the manifest is published its entry names no blobs any more.

Times of marks and entries are compared on the store's clock.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from runwire_store.layout import STAGING
from runwire_store.store import NotFound, ObjectStore

__all__ = ["LEASE_S", "MARKS", "MARK_S", "PIN_S", "Mark", "Stopwatch", "blobs_condemned"]

MARKS: Final = f"{STAGING}sweep/"
# A sweep deletes at most this long after its mark; then it has to start again.
LEASE_S: Final = 300.0
# Publications respect a mark for twice the lease: a delete request may arrive late.
MARK_S: Final = 2 * LEASE_S
# An entry without a manifest protects its blobs this long; a publication takes seconds.
PIN_S: Final = 3600.0
NS: Final = 1_000_000_000


class Stopwatch:
    """Seconds since it was created, including time the machine was suspended."""

    def __init__(self) -> None:
        self._wall_s, self._steady_s = time.time(), time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Elapsed time of the faster clock: the steady one stops while the machine is suspended."""
        return max(time.time() - self._wall_s, time.monotonic() - self._steady_s)


@dataclass(frozen=True, slots=True)
class Mark:
    """The record of a sweep that is about to delete blobs."""

    key: str
    at_ns: int
    lease_s: float
    watch: Stopwatch

    @classmethod
    def put(cls, store: ObjectStore, blobs: Iterable[bytes]) -> Mark:
        """Announce the deletion of blobs, by their SHA-256."""
        watch = Stopwatch()
        key = f"{MARKS}{uuid.uuid4().hex}.json"
        store.put(key, json.dumps(sorted(blob.hex() for blob in blobs)).encode())
        stat = store.stat(key)
        if stat is None:  # a rule of the bucket expired it at once: nothing may be deleted
            return cls(key, 0, -1.0, watch)
        return cls(key, stat.modified_at_ns, LEASE_S, watch)

    @property
    def is_over(self) -> bool:
        """Whether the lease has ended: nothing more may be deleted under this mark."""
        return self.watch.elapsed_s > self.lease_s

    def list_outdated(self, store: ObjectStore) -> list[str]:
        """Return the marks that killed sweeps left; they are no longer respected."""
        before_ns = self.at_ns - int(MARK_S * NS)
        return [stat.key for stat in store.list(MARKS) if stat.modified_at_ns < before_ns]


def blobs_condemned(store: ObjectStore, blobs: Iterable[str], *, entry: str) -> set[str]:
    """Return those of the blobs that a sweep may be deleting now.

    `entry` is the key of the entry that was just stored to protect them.
    """
    wanted = set(blobs)
    marks = list(store.list(MARKS))
    stat = store.stat(entry) if marks else None
    if stat is None:
        return wanted if marks else set()
    found: set[str] = set()
    for mark in marks:
        if mark.modified_at_ns > stat.modified_at_ns - int(MARK_S * NS):
            with suppress(NotFound):  # that sweep has ended
                found |= wanted & set(json.loads(store.get(mark.key)))
    return found
