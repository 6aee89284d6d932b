"""Looks at the store all the time: whatever is visible must be whole at that very moment."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any

import urllib3
from minio.error import MinioException

from faults.objects.plain import PlainStore, read, sha256_of

LOOK_S = 0.05
# The server was killed, its bucket is gone: nothing can be said of such a moment.
BLIND = (MinioException, urllib3.exceptions.HTTPError, OSError)
NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@dataclass(frozen=True)
class Seen:
    """What a manifest says, read without our code."""

    key: str
    artifact: str
    name: str
    files: dict[str, tuple[str, int]]
    uris: dict[str, str]

    @classmethod
    def parse(cls, key: str, data: bytes) -> Seen:
        fields: dict[str, Any] = json.loads(data)
        files = {f["path"]: (f["sha256"], f["size"]) for f in fields["files"]}
        uris = {f["path"]: f["uri"] for f in fields["files"] if f["uri"]}
        return cls(key, fields["artifact"], fields["name"], files, uris)

    @property
    def blobs(self) -> dict[str, int]:
        """Sizes of the contents that have to be in the store, by key; nothing needs no blob."""
        return {
            blob_of(sha256): size
            for path, (sha256, size) in self.files.items()
            if path not in self.uris and sha256 != NOTHING
        }


def blob_of(sha256: str) -> str:
    """The key of a content, repeated here on purpose: the layout is a contract."""
    return f"blobs/{sha256[:2]}/{sha256}"


class Observer:
    """A thread with a connection of its own; use as a context manager. It owns the store."""

    def __init__(self, store: PlainStore, *, every_s: float = LOOK_S) -> None:
        self._store, self._every_s = store, every_s
        self.looks = self.blind = 0
        self.faults: list[str] = []
        self.seen: dict[str, Seen] = {}
        self._good: set[str] = set()
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="observer")

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._store.close()

    def look(self) -> None:
        """Compare every visible manifest with the stored contents."""
        with self._lock:
            self._look()

    def _look(self) -> None:
        there = self._store.sizes("runs/")
        for key in there.keys() - self.seen.keys():
            self.seen[key] = Seen.parse(key, read(self._store, key))
        blobs = self._store.sizes("blobs/")
        for key in there:
            for blob, size in self.seen[key].blobs.items():
                self._compare(key, blob, size, found=blobs.get(blob))
        self.looks += 1

    def _compare(self, key: str, blob: str, size: int, *, found: int | None) -> None:
        if found != size:
            # A deleted manifest needs nothing any more: a sweep may have been faster than we.
            if key in self._store.sizes(key):
                self._tell(f"{key} is visible, {blob} has {found} bytes instead of {size}")
        elif blob not in self._good:
            if blob.rpartition("/")[2] != sha256_of(self._store, blob):
                self._tell(f"{key} is visible, {blob} has other content than its name says")
            self._good.add(blob)

    def _tell(self, fault: str) -> None:
        if fault not in self.faults:
            self.faults.append(fault)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.look()
            except BLIND:
                self.blind += 1
            except Exception as error:
                self._tell(f"what lies there cannot be read: {error!r}")
