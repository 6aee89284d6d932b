"""The transport of the direct route: content into the object store, then its manifest."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runwire_agent.upload.contents import contents_of, hash_entry, manifest_of
from runwire_agent.upload.progress_note import ProgressNote
from runwire_agent.upload.transport import (
    STORE_AWAY,
    STORE_REFUSED,
    NotNow,
    Pace,
    Tell,
    UploadFailed,
)
from runwire_disk.outbox.hashing import signature
from runwire_disk.outbox.request import UploadRequest
from runwire_disk.outbox.requests import Claim
from runwire_disk.outbox.route import DIRECT
from runwire_schemas.connections.s3 import S3Settings, S3SettingsError
from runwire_schemas.events import ArtifactEvent
from runwire_store.announce import COMPLETE, artifact_event
from runwire_store.layout import blob_key
from runwire_store.manifest import EMPTY_SHA256, FileEntry, ManifestError
from runwire_store.open import open_store
from runwire_store.publish import PublishError, publish
from runwire_store.releasing import release
from runwire_store.store import ObjectStore, StoreAway, StoreRefused
from runwire_store.sweep import sweep

__all__ = ["DirectTransport", "Stores", "settings_of"]

_log = logging.getLogger("runwire.agent")
TIDY_S = 3600.0
EXPIRE_S = 7 * 24 * 3600.0  # as the rules of a bucket that `runwire migrate` makes
# Released content takes room on the trainer's own disk, so it is swept sooner than in a bucket.
# Content that is swept before its publication is uploaded again.
GRACE_S = 3600.0
OpenStore = Callable[[S3Settings | None, Path], ObjectStore]


class Stores:
    """The stores that an agent can write to, opened when needed and kept. Threads: one."""

    def __init__(
        self, root: Path, s3: S3Settings | None, *, opener: OpenStore = open_store
    ) -> None:
        self._root, self._s3, self._opener = root, s3, opener
        self._open: dict[str, ObjectStore] = {}

    def store_key(self, request: UploadRequest) -> str | None:
        """Return the key of a request's store; None when its credentials are unknown."""
        if not request.store or settings_of(request.store, self._s3) is not None:
            return json.dumps(request.store, sort_keys=True)
        return None

    def get(self, request: UploadRequest) -> ObjectStore:
        """Return the store of a request that has a store key.

        Raises: StoreRefused without the client, S3SettingsError for unreadable key files.
        """
        key = self.store_key(request)
        assert key is not None
        if key not in self._open:
            settings = settings_of(request.store, self._s3) if request.store else None
            self._open[key] = self._opener(settings, self._root)
        return self._open[key]

    def forget(self, key: str) -> None:
        """Close a store; the next `get` opens it again and reads its key files again."""
        store = self._open.pop(key, None)
        if store is not None:
            store.close()

    def close(self) -> None:
        """Close all stores."""
        for key in list(self._open):
            self.forget(key)

    def abandon(self) -> None:
        """Drop the stores without closing them, in a forked child."""
        self._open.clear()


def settings_of(public: Mapping[str, Any], own: S3Settings | None) -> S3Settings | None:
    """Return the settings that have these public facts; None when a key is unknown.

    An agent knows its own settings, and those of other stores whose keys are in files.
    """
    if own is not None and own.public() == dict(public):
        return own
    return S3Settings.from_public(public)


class DirectTransport:
    """Uploads each request to the store that it names. Threads: one."""

    def __init__(self, stores: Stores, pace: Pace) -> None:
        self._stores, self._pace = stores, pace
        self._tidied_s = float("-inf")

    def backoff_key(self, request: UploadRequest) -> str | None:
        """Return the key of the request's store; None when this agent lacks its credentials."""
        return self._stores.store_key(request) if request.route == DIRECT else None

    def upload(self, claim: Claim, tell: Tell) -> None:
        """Store the content and publish it. Raises: NotNow, UploadFailed, Stopped, OSError."""
        try:
            store = self._stores.get(claim.request)
            with ProgressNote.open(claim.folder) as note:
                self._upload(claim, store, note, tell)
        except (StoreAway, StoreRefused, S3SettingsError, PublishError) as error:
            # The next try reads the credentials and connects again.
            self._stores.forget(self._stores.store_key(claim.request) or "")
            is_passing = isinstance(error, StoreAway | PublishError)
            raise NotNow(STORE_AWAY if is_passing else STORE_REFUSED, str(error)) from error
        except ManifestError as error:
            raise UploadFailed(str(error)) from error

    def close(self) -> None:
        """Close the stores."""
        self._stores.close()

    def abandon(self) -> None:
        """Leave the stores to the parent process."""
        self._stores.abandon()

    def _upload(self, claim: Claim, store: ObjectStore, note: ProgressNote, tell: Tell) -> None:
        request, folder = claim.request, claim.folder
        entries = [hash_entry(folder, file, note, self._pace) for file in request.files]
        sizes = {entry.sha256: entry for entry in entries}
        for sha256, path in contents_of(request, folder, entries).items():
            if sha256 != EMPTY_SHA256:
                self._put(store, sizes[sha256], path, note)
        self._pace.check()
        published = publish(store, manifest_of(request, entries), now_ns=time.time_ns())
        tell(artifact_event(published, COMPLETE, at_ns=time.time_ns(), store_uri=store.uri))

        def tell_all(events: Sequence[ArtifactEvent]) -> None:
            for event in events:
                tell(event)

        release(store, published, note, tell_all, now_ns=time.time_ns())
        if not request.store:
            self._tidy(store)

    def _tidy(self, store: ObjectStore) -> None:
        """Sweep the folder store of this machine; buckets are swept by the object worker."""
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
                "swept %d unused contents (%d bytes) from %s",
                len(swept.blobs),
                swept.blob_bytes,
                store.uri,
            )

    def _put(self, store: ObjectStore, entry: FileEntry, path: Path, note: ProgressNote) -> None:
        """Store one content unless the store has it."""
        key = blob_key(entry.sha256)
        stored = store.stat(key)
        if stored is not None and stored.size == entry.size:
            self._pace.moved(entry.size)
            return
        journal = note.folder / f"put-{entry.sha256[:32]}.json"
        store.put_file(key, path, journal=journal, progress=self._pace.moved)
        if note.digest(path.name, signature(path)) != entry.sha256:
            # The object may not have the content of its key; no manifest names it yet.
            store.delete([key])
            raise UploadFailed(
                f"{entry.path!r} changed while it was uploaded: something writes to the file; "
                "log the artifact again"
            )
