"""The object stores that an agent can write to: its own, the local folder, those of key files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runwire_disk.outbox.request import UploadRequest
from runwire_schemas.connections.s3 import S3Settings
from runwire_store.open import open_store
from runwire_store.store import ObjectStore

__all__ = ["Stores", "settings_of"]

OpenStore = Callable[[S3Settings | None, Path], ObjectStore]


class Stores:
    """Opened when needed and kept, until `forget`. Threads: one."""

    def __init__(
        self, root: Path, s3: S3Settings | None, *, opener: OpenStore = open_store
    ) -> None:
        self._root, self._s3, self._opener = root, s3, opener
        self._open: dict[str, ObjectStore] = {}

    def lane(self, request: UploadRequest) -> str | None:
        """Return a name of the store that a request is for; None when its keys are not known."""
        if not request.store or settings_of(request.store, self._s3) is not None:
            return json.dumps(request.store, sort_keys=True)
        return None

    def get(self, request: UploadRequest) -> ObjectStore:
        """Return the store of a request that has a lane.

        Raises: StoreRefused without the client, S3SettingsError for key files.
        """
        lane = self.lane(request)
        assert lane is not None
        if lane not in self._open:
            settings = settings_of(request.store, self._s3) if request.store else None
            self._open[lane] = self._opener(settings, self._root)
        return self._open[lane]

    def forget(self, lane: str) -> None:
        """Open the store anew at the next need: keys in files may be other ones by then."""
        store = self._open.pop(lane, None)
        if store is not None:
            store.close()

    def close(self) -> None:
        """Let go of all of them."""
        for lane in list(self._open):
            self.forget(lane)

    def abandon(self) -> None:
        """Forget them without a word, in a forked child."""
        self._open.clear()


def settings_of(public: Mapping[str, Any], own: S3Settings | None) -> S3Settings | None:
    """Return the settings whose public facts these are; None when a key cannot be had.

    An agent has its own; those of another store only where files hold both keys.
    """
    if own is not None and own.public() == dict(public):
        return own
    return S3Settings.from_public(public)
