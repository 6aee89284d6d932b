"""After a checkpoint is published: those that the run's retention lets go leave the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from runwire_agent.upload.progress_note import UploadJournal
from runwire_schemas.events import ArtifactEvent
from runwire_store.announce import DELETED, artifact_event
from runwire_store.manifest import Manifest, ManifestError
from runwire_store.retention import Retention, RetentionError, leaving
from runwire_store.store import ObjectStore

__all__ = ["retire"]

_log = logging.getLogger("runwire.agent")
REASON = "retention"


def retire(
    store: ObjectStore, published: Manifest, journal: UploadJournal
) -> Iterator[ArtifactEvent]:
    """Delete what the retention of a checkpoint lets go; yield what has to be told of it.

    What leaves is noted first: killed between deletion and word, the next agent still tells it.
    Raises: StoreAway, StoreRefused.
    """
    if published.checkpoint is None or not published.checkpoint.retention:
        return
    try:
        retention = Retention.from_json(published.checkpoint.retention)
    except (RetentionError, TypeError) as error:
        _log.warning("checkpoints of run %s stay: %s", published.run_id, error)
        return
    now_ns = time.time_ns()
    going = leaving(store, published.project, published.run_id, retention, now_ns=now_ns)
    told = {m.artifact: m for m in (*map(_read, journal.leaving), *going) if m is not None}
    if not told:
        return
    journal.leaving = [manifest.to_json().decode() for manifest in told.values()]
    journal.save()
    store.delete(manifest.key for manifest in going)
    for manifest in told.values():
        if store.stat(manifest.key) is None:
            yield artifact_event(manifest, DELETED, at_ns=now_ns, reason=REASON)


def _read(text: str) -> Manifest | None:
    try:
        return Manifest.from_json(text.encode())
    except ManifestError:
        return None
