"""The protocol of uploads in parts that several processes share: S3's multipart uploads.

All parts but the last have one size, so a part's number determines its content: sending a part
again changes nothing. Stores without part uploads join objects (`store.compose`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5
from threading import Lock
from typing import Protocol

from runwire_store.memory import MemoryObjectStore
from runwire_store.store import NotFound, ObjectStore

__all__ = ["MemoryPartUploads", "PartUploads", "StoredPart", "part_uploads_of"]


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part that the store has; other content has another `etag`."""

    size: int
    etag: str


class PartUploads(Protocol):
    """Uploads of one store, each of one object.

    Every method raises StoreAway and StoreRefused. Threads: safe, calls may overlap.
    """

    def put_new(self, key: str, data: bytes) -> bool:
        """Store a small object unless there is one of this key; return whether it was stored.

        versitygw may store both of two simultaneous calls: read back which one stayed.
        """
        ...

    def begin(self, key: str) -> str:
        """Start an upload of an object; return its id."""
        ...

    def put_part(
        self, key: str, upload: str, number: int, *, blocks: Sequence[bytes | memoryview]
    ) -> str:
        """Store a part, numbered from 1; return its etag. Raises: NotFound for no such upload."""
        ...

    def parts(self, key: str, upload: str) -> dict[int, StoredPart]:
        """Return the parts that the store has. Raises: NotFound for no such upload."""
        ...

    def complete(self, key: str, upload: str, etags: Mapping[int, str]) -> None:
        """Make exactly these parts the object.

        Raises: NotFound when the upload is gone (perhaps completed) or a part was replaced.
        """
        ...

    def abandon(self, key: str, upload: str) -> None:
        """Abort an upload; a missing one is no error."""
        ...

    def read(self, key: str, start: int, size: int) -> bytes:
        """Return a range of an object. Raises: NotFound."""
        ...


def part_uploads_of(store: ObjectStore) -> PartUploads | None:
    """Return a store's part uploads, None when it has none."""
    found: PartUploads | None = getattr(store, "part_uploads", None)
    return found


class MemoryPartUploads:
    """Part uploads into a MemoryObjectStore; its `trouble` is called before each verb."""

    def __init__(self, store: MemoryObjectStore) -> None:
        self._store = store
        self._uploads: dict[str, tuple[str, dict[int, bytes]]] = {}
        self._begun = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._uploads)

    def put_new(self, key: str, data: bytes) -> bool:
        """Store an object unless there is one."""
        self._ask("put_new", key)
        return self._store.place(key, data, only_new=True)

    def begin(self, key: str) -> str:
        """Start an upload."""
        self._ask("begin", key)
        with self._lock:
            self._begun += 1
            self._uploads[f"u{self._begun}"] = (key, {})
            return f"u{self._begun}"

    def put_part(
        self, key: str, upload: str, number: int, *, blocks: Sequence[bytes | memoryview]
    ) -> str:
        """Store a part."""
        self._ask("put_part", key)
        data = b"".join(blocks)
        with self._lock:
            self._of(key, upload)[number] = data
        return _etag(data)

    def parts(self, key: str, upload: str) -> dict[int, StoredPart]:
        """Return the parts."""
        self._ask("parts", key)
        with self._lock:
            found = self._of(key, upload)
            return {n: StoredPart(len(data), _etag(data)) for n, data in sorted(found.items())}

    def complete(self, key: str, upload: str, etags: Mapping[int, str]) -> None:
        """Join the parts."""
        self._ask("complete", key)
        with self._lock:
            found = self._of(key, upload)
            if any(n not in found or _etag(found[n]) != etag for n, etag in etags.items()):
                raise NotFound(f"a part of upload {upload} is missing or was replaced")
            self._store.place(key, b"".join(found[number] for number in sorted(etags)))
            del self._uploads[upload]

    def abandon(self, key: str, upload: str) -> None:
        """Abort an upload."""
        self._ask("abandon", key)
        with self._lock:
            self._uploads.pop(upload, None)

    def read(self, key: str, start: int, size: int) -> bytes:
        """Return a range."""
        return self._store.get(key)[start : start + size]

    def _ask(self, verb: str, key: str) -> None:
        if self._store.trouble is not None:
            self._store.trouble(verb, key)

    def _of(self, key: str, upload: str) -> dict[int, bytes]:
        known = self._uploads.get(upload)
        if known is None or known[0] != key:
            raise NotFound(f"there is no upload {upload} of {key}")
        return known[1]


def _etag(data: bytes) -> str:
    return md5(data, usedforsecurity=False).hexdigest()
