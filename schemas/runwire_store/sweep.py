"""The sweep: deletes content that no manifest names, and abandoned staging.

Safe beside publications and other sweeps, see `condemned`. If a manifest is unreadable its content
is unknown: then no content is deleted at all, and the report gives the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Final

from runwire_store.condemned import MARKS, PIN_S, Mark
from runwire_store.layout import BLOBS, NAMES, RUNS, STAGING, blob_key
from runwire_store.manifest import ManifestError, read_manifest
from runwire_store.store import NotFound, ObjectStore, Stat, map_in_parallel
from runwire_store.versions import read_entry

__all__ = ["GRACE_S", "STAGING_S", "SweepReport", "sweep"]

# A day: longer than an upload that is delayed by a night of failures.
GRACE_S: Final = 86_400.0
# A week, as the lifecycle rule of the bucket: longer than any weekend without a worker.
STAGING_S: Final = 7 * 86_400.0
NS: Final = 1_000_000_000
# The most that one S3 request deletes, and that a mark of a few megabytes holds.
BATCH: Final = 1000
CONDEMNED_MAX: Final = 50_000
_TOMBSTONE = re.compile(f"{RUNS}[0-9a-f]{{32}}/deleted\\.json")
_BLOB = re.compile(f"{BLOBS}[0-9a-f]{{2}}/([0-9a-f]{{64}})")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    """The deleted objects, or with `is_dry_run` the deletable ones. `staging` are artifact ids.

    `unreadable` maps each unreadable manifest to the reason; if there is one no content is deleted.
    With `keeps_versions` the deleted objects still take their space, as old versions.
    """

    blobs: tuple[str, ...] = ()
    blob_bytes: int = 0
    staging: tuple[str, ...] = ()
    staging_bytes: int = 0
    uploads: int = 0
    unreadable: dict[str, str]
    is_dry_run: bool = False
    keeps_versions: bool = False

    @property
    def space_note(self) -> str:
        """The sentence about space that is not freed yet; empty when it is."""
        if not self.keeps_versions:
            return ""
        return (
            "the bucket keeps old versions, so the space is not freed yet: a lifecycle rule that "
            f"expires noncurrent versions below {BLOBS} and {STAGING} frees it"
        )


def sweep(
    store: ObjectStore,
    *,
    grace_s: float = GRACE_S,
    staging_s: float = STAGING_S,
    now_ns: int,
    dry_run: bool = False,
) -> SweepReport:
    """Delete blobs older than the grace period that no manifest names, and old staging.

    Blocks: while all manifests are read. Raises: StoreAway, StoreRefused.
    """
    staging, staging_bytes = _sweep_staging(store, now_ns - int(staging_s * NS), dry_run=dry_run)
    uploads = 0 if dry_run else store.expire_uploads(staging_s)
    unreadable: dict[str, str] = {}
    old = dict(_old_blobs(store, now_ns - int(grace_s * NS)))
    swept = _sweep_blobs(store, old, unreadable, now_ns, dry_run=dry_run) if old else []
    is_any_deleted = bool(swept or staging)
    return SweepReport(
        blobs=tuple(blob.hex() for blob in swept),
        blob_bytes=sum(old[blob] for blob in swept),
        staging=tuple(staging),
        staging_bytes=staging_bytes,
        uploads=uploads,
        unreadable=unreadable,
        is_dry_run=dry_run,
        keeps_versions=is_any_deleted and store.keeps_versions(),
    )


def _old_blobs(store: ObjectStore, before_ns: int) -> Iterator[tuple[bytes, int]]:
    """Yield digest and size of the blobs stored before."""
    for stat in store.list(BLOBS):
        match = _BLOB.fullmatch(stat.key)
        if match is not None and stat.modified_at_ns < before_ns:
            yield bytes.fromhex(match.group(1)), stat.size


def _sweep_blobs(
    store: ObjectStore,
    old: dict[bytes, int],
    unreadable: dict[str, str],
    now_ns: int,
    *,
    dry_run: bool,
) -> list[bytes]:
    needs = _Needs(store, unreadable)
    condemned = needs.spare(old, pinned_after_ns=now_ns - int(PIN_S * NS))
    if dry_run or unreadable or not condemned:
        return [] if unreadable else sorted(condemned)
    condemned = set(sorted(condemned)[:CONDEMNED_MAX])
    mark = Mark.put(store, condemned)
    swept: list[bytes] = []
    try:
        condemned = needs.spare(condemned, pinned_after_ns=mark.at_ns - int(PIN_S * NS))
        rest = iter(sorted(condemned))
        while not unreadable and not mark.is_over and (batch := list(islice(rest, BATCH))):
            store.delete(blob_key(blob.hex()) for blob in batch)
            swept += batch
    finally:
        store.delete([mark.key, *mark.list_outdated(store)])
    return swept


class _Needs:
    """The blobs that manifests and entries name; a second call reads only new manifests."""

    def __init__(self, store: ObjectStore, unreadable: dict[str, str]) -> None:
        self._store = store
        self._unreadable = unreadable
        self._seen: set[tuple[str, int]] = set()

    def spare(self, blobs: Iterable[bytes], *, pinned_after_ns: int) -> set[bytes]:
        """Return the blobs that neither a manifest nor a fresh entry of a version names.

        Entries are read first: meanwhile an entry may become a manifest, never the reverse.
        """
        left = set(blobs)
        fresh = [s.key for s in self._store.list(NAMES) if s.modified_at_ns >= pinned_after_ns]
        for named in map_in_parallel(self._of_entry, fresh):
            left -= named
        runs = (s for s in self._store.list(RUNS) if not _TOMBSTONE.fullmatch(s.key))
        for stats in _chunks(runs):
            for named in map_in_parallel(self._of_manifest, self._unseen(stats)):
                left -= named
        return left

    def _unseen(self, stats: Iterable[Stat]) -> list[str]:
        keys = []
        for stat in stats:
            if (place := (stat.key, stat.modified_at_ns)) not in self._seen:
                self._seen.add(place)
                keys.append(stat.key)
        return keys

    def _of_entry(self, key: str) -> set[bytes]:
        try:
            return {bytes.fromhex(blob) for blob in read_entry(self._store, key).blobs}
        except NotFound:
            return set()
        except ManifestError as error:
            self._unreadable[key] = str(error)
            return set()

    def _of_manifest(self, key: str) -> set[bytes]:
        try:
            found = read_manifest(self._store, key)
            if found is None:  # deleted meanwhile
                return set()
            return {bytes.fromhex(e.sha256) for e in found.files if not e.uri}
        except (ManifestError, ValueError) as error:
            self._unreadable[key] = str(error)
            return set()


def _chunks(stats: Iterator[Stat]) -> Iterator[list[Stat]]:
    while chunk := list(islice(stats, BATCH)):
        yield chunk


def _sweep_staging(store: ObjectStore, before_ns: int, *, dry_run: bool) -> tuple[list[str], int]:
    """Delete the staging of artifacts without newer pieces; return their ids and bytes."""
    gone: list[str] = []
    count = 0
    groups = groupby(store.list(STAGING), lambda stat: stat.key.split("/")[1])
    for artifact, same in groups:
        stats = list(same)
        if stats[0].key.startswith(MARKS) or max(s.modified_at_ns for s in stats) >= before_ns:
            continue
        if not dry_run:
            store.delete(stat.key for stat in stats)
        gone.append(artifact)
        count += sum(stat.size for stat in stats)
    return gone, count
