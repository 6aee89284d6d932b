"""The direct route: content straight into the object store, then the manifest that shows it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from runwire_agent.upload.contents import contents_of, hashed_entry, manifest_of
from runwire_agent.upload.errors import STORE_AWAY, STORE_REFUSED, NotNow, UploadFailed
from runwire_agent.upload.pace import Pace
from runwire_agent.upload.progress_note import UploadJournal
from runwire_agent.upload.retiring import retire
from runwire_agent.upload.stores import Stores
from runwire_disk.outbox.hashing import signature
from runwire_disk.outbox.request import UploadRequest
from runwire_disk.outbox.requests import Claim
from runwire_disk.outbox.route import DIRECT
from runwire_schemas.connections.s3 import S3SettingsError
from runwire_schemas.events import ArtifactEvent
from runwire_store.announce import COMPLETE, artifact_event
from runwire_store.layout import blob_key
from runwire_store.manifest import FileEntry, ManifestError
from runwire_store.publish import EMPTY_SHA256, PublishError, publish
from runwire_store.store import ObjectStore, StoreAway, StoreRefused
from runwire_store.sweep import sweep

__all__ = ["DirectRoute"]

_log = logging.getLogger("runwire.agent")
TIDY_S = 3600.0
EXPIRE_S = 7 * 24 * 3600.0  # as the rules of a bucket that `runwire migrate` makes
# What retention let go of takes room of the trainer's own disk: sooner than in a bucket. Content
# that is stored and not published yet is sent again should it be swept.
GRACE_S = 3600.0
Tell = Callable[[ArtifactEvent], None]


class DirectRoute:
    """Ships requests to the store that each names. Threads: one."""

    def __init__(self, stores: Stores, pace: Pace) -> None:
        self._stores, self._pace = stores, pace
        self._tidied_s = float("-inf")

    def lane(self, request: UploadRequest) -> str | None:
        """Return a name of the request's store; None when this agent has no keys for it."""
        return self._stores.lane(request) if request.route == DIRECT else None

    def ship(self, claim: Claim, tell: Tell) -> None:
        """Store the content and publish it. Raises: NotNow, UploadFailed, Stopped, OSError."""
        try:
            store = self._stores.get(claim.request)
            with UploadJournal.open(claim.folder) as journal:
                self._ship(claim, store, journal, tell)
        except (StoreAway, StoreRefused, S3SettingsError, PublishError) as error:
            # With the next try keys are read and connections made anew.
            self._stores.forget(self._stores.lane(claim.request) or "")
            is_passing = isinstance(error, StoreAway | PublishError)
            raise NotNow(STORE_AWAY if is_passing else STORE_REFUSED, str(error)) from error
        except ManifestError as error:
            raise UploadFailed(str(error)) from error

    def close(self) -> None:
        """Let go of the stores."""
        self._stores.close()

    def abandon(self) -> None:
        """Leave the stores to the parent process."""
        self._stores.abandon()

    def _ship(self, claim: Claim, store: ObjectStore, journal: UploadJournal, tell: Tell) -> None:
        request, folder = claim.request, claim.folder
        entries = [hashed_entry(folder, file, journal, self._pace) for file in request.files]
        sizes = {entry.sha256: entry for entry in entries}
        for sha256, path in contents_of(request, folder, entries).items():
            if sha256 != EMPTY_SHA256:
                self._put(store, sizes[sha256], path, journal)
        self._pace.check()
        published = publish(store, manifest_of(request, entries), now_ns=time.time_ns())
        tell(artifact_event(published, COMPLETE, at_ns=time.time_ns(), store_uri=store.uri))
        for event in retire(store, published, journal):
            tell(event)
        if not request.store:
            self._tidy(store)

    def _tidy(self, store: ObjectStore) -> None:
        """Sweep the folder of this machine: of a bucket the object worker takes care."""
        now_s = time.monotonic()
        if now_s - self._tidied_s < TIDY_S:
            return
        self._tidied_s = now_s
        try:
            swept = sweep(store, grace_s=GRACE_S, staging_s=EXPIRE_S, now_ns=time.time_ns())
        except (StoreAway, StoreRefused) as error:
            _log.warning("%s cannot be swept: %s", store.uri, error)
            return
        if swept.blobs:
            _log.info(
                "swept %d contents that nothing names any more (%d bytes) from %s",
                len(swept.blobs),
                swept.blob_bytes,
                store.uri,
            )

    def _put(
        self, store: ObjectStore, entry: FileEntry, path: Path, journal: UploadJournal
    ) -> None:
        """Store one content unless the store has it."""
        key = blob_key(entry.sha256)
        there = store.stat(key)
        if there is not None and there.size == entry.size:
            self._pace.moved(entry.size)
            return
        note = journal.folder / f"put-{entry.sha256[:32]}.json"
        store.put_file(key, path, journal=note, progress=self._pace.moved)
        if journal.digest(path.name, signature(path)) != entry.sha256:
            # It may not be what its key says; nothing names it yet.
            store.delete([key])
            raise UploadFailed(
                f"{entry.path!r} changed while it was uploaded: something writes into the file; "
                "log the artifact again"
            )
