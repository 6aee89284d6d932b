"""Deletion of manifests: of checkpoints that retention releases, and of whole runs.

The order of a release makes it safe to kill and to repeat: the expired manifests are noted, then
deleted, then reported. Only manifests that are verifiably gone are reported as deleted, and the
note makes a repeat report those that were deleted by the call before it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from runwire_schemas.events import ArtifactEvent
from runwire_store.announce import DELETED, artifact_event
from runwire_store.catalog import Catalog
from runwire_store.layout import (
    archive_prefix,
    artifacts_prefix,
    checkpoints_prefix,
    staging_prefix,
    tombstone_key,
)
from runwire_store.manifest import Manifest, ManifestError
from runwire_store.retention import Retention, RetentionError, expired_manifests
from runwire_store.store import NotFound, ObjectStore, map_in_parallel

__all__ = ["REASON", "ReleaseNote", "StagedReleaseNote", "delete_objects", "release"]

_log = logging.getLogger("runwire.store")
REASON: Final = "retention"
NOTE_NAME: Final = "released.json"


class ReleaseNote(Protocol):
    """The manifests that a release is about to delete, as JSON, kept until they are reported."""

    def read_released(self) -> Sequence[str]:
        """Return the texts of the last write, none before the first."""
        ...

    def write_released(self, manifests: Sequence[str]) -> None:
        """Keep these texts beyond the end of this process."""
        ...


class StagedReleaseNote:
    """A note in an artifact's staging; it is deleted with the rest of the staging."""

    def __init__(self, store: ObjectStore, artifact: str) -> None:
        self._store, self._key = store, f"{staging_prefix(artifact)}{NOTE_NAME}"

    def read_released(self) -> Sequence[str]:
        """Return the texts of the last write. Raises: StoreAway, StoreRefused."""
        try:
            texts = json.loads(self._store.get(self._key))
        except (NotFound, ValueError):
            return []
        return [str(text) for text in texts]

    def write_released(self, manifests: Sequence[str]) -> None:
        """Store these texts. Raises: StoreAway, StoreRefused."""
        self._store.put(self._key, json.dumps(list(manifests)).encode())


def release(
    store: ObjectStore,
    published: Manifest,
    note: ReleaseNote,
    tell: Callable[[Sequence[ArtifactEvent]], None],
    *,
    now_ns: int,
) -> None:
    """Delete the checkpoints that expire by the rules saved with `published`, then report them.

    `tell` gets the events in one call. A call that was interrupted is completed by a repeat with
    the same note; manifests may then be reported twice. Invalid rules delete nothing.
    Raises: StoreAway, StoreRefused; errors of `note` and `tell`.
    """
    facts = published.checkpoint
    if facts is None or not facts.retention:
        return
    try:
        rules = Retention.from_json(facts.retention)
    except (RetentionError, TypeError) as error:
        _log.warning("checkpoints of run %s are kept: %s", published.run_id, error)
        return
    views = Catalog(store).checkpoints(published.project, published.run_id)
    expired = expired_manifests(views, rules, now_ns=now_ns)
    pending = {m.artifact: m for m in (*_parse(note.read_released()), *expired)}
    if not pending:
        return
    note.write_released([manifest.to_json().decode() for manifest in pending.values()])
    store.delete(manifest.key for manifest in expired)
    stats = map_in_parallel(store.stat, [manifest.key for manifest in pending.values()])
    gone = [m for m, stat in zip(pending.values(), stats, strict=True) if stat is None]
    if gone:
        tell([artifact_event(m, DELETED, at_ns=now_ns, reason=REASON) for m in gone])


def delete_objects(store: ObjectStore, project: str, run_id: str) -> int:
    """Delete a run's manifests and archive for good and return the number; a repeat is harmless.

    The tombstone is stored first, so that an upload still in progress publishes nothing. Content
    that no other run names is left to `sweep`. Raises: StoreAway, StoreRefused.
    """
    store.put(tombstone_key(project, run_id), b"{}")
    prefixes = (
        artifacts_prefix(project, run_id),
        checkpoints_prefix(project, run_id),
        archive_prefix(project, run_id),
    )
    keys = [stat.key for prefix in prefixes for stat in store.list(prefix)]
    store.delete(keys)
    return len(keys)


def _parse(texts: Iterable[str]) -> list[Manifest]:
    """Return the manifests of a note; unreadable ones are skipped."""
    manifests = []
    for text in texts:
        try:
            manifests.append(Manifest.from_json(text.encode()))
        except ManifestError as error:
            _log.warning("a released checkpoint is not reported, its note is damaged: %s", error)
    return manifests
