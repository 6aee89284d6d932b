"""The store as others see it: the `minio` client or plain files, and none of our code."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject

from runwire_schemas.connections.s3 import S3Settings

_BLOCK_BYTES = 1024 * 1024


class PlainStore(Protocol):
    """What the oracle needs of a store."""

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Sizes of all objects by key."""

    def blocks(self, key: str) -> Iterator[bytes]:
        """The content of an object."""

    def unfinished(self) -> list[str]:
        """Transfers that began and did not end."""

    def put(self, key: str, data: bytes) -> None:
        """Store something, for controls."""

    def remove(self, keys: list[str]) -> None:
        """Delete objects."""

    def close(self) -> None:
        """Let go of connections."""


class PlainS3:
    """A bucket through the plain client."""

    def __init__(self, settings: S3Settings) -> None:
        access, secret = settings.identity
        # Short waits: a server that a test has killed is asked again in a moment.
        self._pool = urllib3.PoolManager(timeout=20.0, retries=urllib3.Retry(0), maxsize=4)
        self.client = Minio(
            settings.address,
            access_key=access,
            secret_key=secret,
            secure=settings.is_secure,
            http_client=self._pool,
        )
        self.bucket = settings.bucket

    def sizes(self, prefix: str = "") -> dict[str, int]:
        found = self.client.list_objects(self.bucket, prefix=prefix, recursive=True)
        return {str(each.object_name): int(each.size or 0) for each in found}

    def blocks(self, key: str) -> Iterator[bytes]:
        answer = self.client.get_object(self.bucket, key)
        try:
            yield from answer.stream(_BLOCK_BYTES)
        finally:
            answer.close()
            answer.release_conn()

    def unfinished(self) -> list[str]:
        list_page = self.client._list_multipart_uploads  # noqa: SLF001 - it has no public one
        page = list_page(self.bucket)
        return [f"{upload.object_name} {upload.upload_id}" for upload in page.uploads]

    def abandon(self, unfinished: str) -> None:
        """Give up an upload that `unfinished` lists. Raises: S3Error."""
        key, upload_id = unfinished.split(" ")
        abort = self.client._abort_multipart_upload  # noqa: SLF001 - it has no public one
        abort(self.bucket, key, upload_id)

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(self.bucket, key, io.BytesIO(data), len(data))

    def remove(self, keys: list[str]) -> None:
        refused = self.client.remove_objects(self.bucket, map(DeleteObject, keys))
        assert list(refused) == []

    def close(self) -> None:
        self._pool.clear()


class PlainFolder:
    """The folder store as plain files; what is hidden there is on its way."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def sizes(self, prefix: str = "") -> dict[str, int]:
        found = {}
        for path, key in self._files():
            if key.startswith(prefix) and not key.startswith("."):
                try:
                    found[key] = path.stat().st_size
                except FileNotFoundError:
                    continue
        return found

    def blocks(self, key: str) -> Iterator[bytes]:
        with (self.root / key).open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block

    def unfinished(self) -> list[str]:
        return [key for _, key in self._files() if key.startswith(".")]

    def put(self, key: str, data: bytes) -> None:
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).write_bytes(data)

    def remove(self, keys: list[str]) -> None:
        for key in keys:
            (self.root / key).unlink()

    def close(self) -> None:
        pass

    def _files(self) -> Iterator[tuple[Path, str]]:
        for folder, _, names in os.walk(self.root):  # skips what goes away meanwhile
            for name in names:
                path = Path(folder, name)
                yield path, path.relative_to(self.root).as_posix()


def read(store: PlainStore, key: str) -> bytes:
    """The whole of a small object."""
    return b"".join(store.blocks(key))


def sha256_of(store: PlainStore, key: str) -> str:
    """The digest of the object at a key."""
    digest = hashlib.sha256()
    for block in store.blocks(key):
        digest.update(block)
    return digest.hexdigest()
