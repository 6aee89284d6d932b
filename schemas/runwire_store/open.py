"""Opening the store that the settings name: S3 if there is an endpoint, else a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from runwire_schemas.connections.s3 import S3Settings
from runwire_schemas.errors import ConfigError, RunwireError, SchemaError
from runwire_store.catalog import Catalog
from runwire_store.folder.store import FolderStore
from runwire_store.store import ObjectStore, StoreError

__all__ = ["FOLDER", "open_catalog", "open_store", "translating_store_errors"]

FOLDER: Final = "objects"


def open_store(s3: S3Settings | None, root: Path) -> ObjectStore:
    """Return the store; the folder store is below the data root `root`.

    Raises: StoreRefused when the S3 client is not installed; S3SettingsError for unreadable key
    files. Does not connect: `check` does.
    """
    if s3 is None:
        return FolderStore(root / FOLDER)
    from runwire_store.s3.store import S3Store

    return S3Store(s3)


@contextmanager
def open_catalog(
    s3: S3Settings | None, root: Path, as_error: Callable[[RunwireError], Exception]
) -> Iterator[Catalog]:
    """Open the catalog of the store for the block, then close the store.

    Raises: what `as_error` returns, as `translating_store_errors`.
    """
    with translating_store_errors(as_error):
        store = open_store(s3, root)
        try:
            yield Catalog(store)
        finally:
            store.close()


@contextmanager
def translating_store_errors(as_error: Callable[[RunwireError], Exception]) -> Iterator[None]:
    """Turn an error of the store or of its settings into the caller's own, made by `as_error`."""
    try:
        yield
    except (StoreError, ConfigError, SchemaError) as error:
        raise as_error(error) from error
