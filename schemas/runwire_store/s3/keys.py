"""Who logs in at the store: keys in files are read again once they changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider

from runwire_schemas.connections.s3 import S3Settings, S3SettingsError
from runwire_store.store import StoreRefused

__all__ = ["Keys"]


class Keys(Provider):
    """The identity of the settings, as the client asks for it before every request.

    Threads: any. Raises: StoreRefused for files that cannot be read at the start; later the keys
    known before stay until they can be.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        names = (settings.access_key_file, settings.secret_key_file)
        self._files = [Path(name).expanduser() for name in names if name]
        self._known = self._seen(), self._read()

    def retrieve(self) -> Credentials:
        """Return the keys as they are now."""
        before, keys = self._known
        now = self._seen()
        if now != before:
            try:
                keys = self._read()
            except StoreRefused:
                return keys  # being written at this moment
            self._known = now, keys
        return keys

    def _read(self) -> Credentials:
        try:
            return Credentials(*self._settings.identity)
        except S3SettingsError as error:
            raise StoreRefused(str(error)) from error

    def _seen(self) -> list[Any]:
        seen: list[Any] = []
        for file in self._files:
            try:
                found = file.stat()
                seen.append((found.st_mtime_ns, found.st_size, found.st_ino))
            except OSError:
                seen.append(None)
        return seen
