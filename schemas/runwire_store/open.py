"""Which store the settings mean: S3 where an endpoint is named, else a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.folder.store import FolderStore
from runwire_store.store import ObjectStore

__all__ = ["FOLDER", "open_store"]

FOLDER: Final = "objects"


def open_store(s3: S3Settings | None, root: Path) -> ObjectStore:
    """Return the store; `root` is the data root, below which the folder store lies.

    Raises: StoreRefused when the S3 client is not installed; S3SettingsError for key files that
    cannot be read. Connects to nothing: `check` does.
    """
    if s3 is None:
        return FolderStore(root / FOLDER)
    from runwire_store.s3.store import S3Store

    return S3Store(s3)
