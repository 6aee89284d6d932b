"""How a sweep and a publication that run at the same time never harm each other.

A publication writes the entry of its version, which names its blobs, then looks for marks, then
for the blobs. A sweep writes a mark with what it means to delete, then looks for entries and
manifests, then deletes. Whoever comes second sees the other: the sweep spares what a fresh entry
names, the publication waits for a mark to go, or finds that a blob is gone and says so. Once the
manifest is there the entry names no blobs any more.

All times are compared on the store's clock: those of a mark and of an entry.
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
# A sweep deletes for so long after its mark; then it has to start anew.
LEASE_S: Final = 300.0
# So long a publication respects a mark: twice the lease, for a request that was slow to arrive.
MARK_S: Final = 2 * LEASE_S
# So long an entry without a manifest protects its blobs; a publication takes seconds.
PIN_S: Final = 3600.0
NS: Final = 1_000_000_000


class Stopwatch:
    """Seconds since it was made, those included that the machine slept."""

    def __init__(self) -> None:
        self._wall_s, self._steady_s = time.time(), time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """By the clock that went further: the steady one sleeps with the machine."""
        return max(time.time() - self._wall_s, time.monotonic() - self._steady_s)


@dataclass(frozen=True, slots=True)
class Mark:
    """A sweep's word about what it is going to delete."""

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
        if stat is None:  # expired by a rule of the bucket within a moment: nothing may be deleted
            return cls(key, 0, -1.0, watch)
        return cls(key, stat.modified_at_ns, LEASE_S, watch)

    @property
    def is_over(self) -> bool:
        """Whether nothing may be deleted under it any more."""
        return self.watch.elapsed_s > self.lease_s

    def forgotten(self, store: ObjectStore) -> list[str]:
        """Return marks of sweeps that were killed: nobody respects them any more."""
        before_ns = self.at_ns - int(MARK_S * NS)
        return [stat.key for stat in store.list(MARKS) if stat.modified_at_ns < before_ns]


def blobs_condemned(store: ObjectStore, blobs: Iterable[str], *, entry: str) -> set[str]:
    """Return those of the blobs that a sweep may be deleting now.

    `entry` is the key of what was just stored to protect them.
    """
    wanted = set(blobs)
    marks = list(store.list(MARKS))
    stat = store.stat(entry) if marks else None
    if stat is None:
        return wanted if marks else set()
    found: set[str] = set()
    for mark in marks:
        if mark.modified_at_ns > stat.modified_at_ns - int(MARK_S * NS):
            with suppress(NotFound):  # that sweep has just ended
                found |= wanted & set(json.loads(store.get(mark.key)))
    return found
