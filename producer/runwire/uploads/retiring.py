"""After a checkpoint is published: those that the run's retention lets go leave the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from runwire.uploads.journal import UploadJournal
from runwire_schemas.events import ArtifactEvent
from runwire_schemas.objects.announce import DELETED, artifact_event
from runwire_schemas.objects.catalog import Catalog
from runwire_schemas.objects.manifest import Manifest, ManifestError
from runwire_schemas.objects.retention import (
    Retention,
    RetentionError,
    apply_retention,
    expired,
)
from runwire_schemas.objects.store import ObjectStore

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
    known = Catalog(store).checkpoints(published.project, published.run_id)
    views = expired(known, retention)
    leaving = {m.artifact: m for v in views for m in (*v.manifests.values(), *v.superseded)}
    leaving |= {m.artifact: m for m in map(_read, journal.leaving) if m is not None}
    if not leaving:
        return
    journal.leaving = [manifest.to_json().decode() for manifest in leaving.values()]
    journal.save()
    now_ns = time.time_ns()
    gone = apply_retention(store, published.project, published.run_id, retention, now_ns=now_ns)
    leaving |= {manifest.artifact: manifest for manifest in gone}
    for manifest in leaving.values():
        if store.stat(manifest.key) is None:
            yield artifact_event(manifest, DELETED, at_ns=now_ns, reason=REASON)


def _read(text: str) -> Manifest | None:
    try:
        return Manifest.from_json(text.encode())
    except ManifestError:
        return None
