"""The object store in memory, for tests; the plainest implementation of the protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock

from runwire_store.folder.files import resume_into
from runwire_store.layout import check_key, check_key_prefix
from runwire_store.store import NotFound, Progress, Stat, check_part_sizes

__all__ = ["MemoryObjectStore"]


class MemoryObjectStore:
    """Objects in a dict; `trouble(verb, key)` is called before each verb and may raise."""

    def __init__(
        self,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        trouble: Callable[[str, str], None] | None = None,
    ) -> None:
        self.trouble = trouble
        self._clock_ns = clock_ns
        self._objects: dict[str, tuple[bytes, int]] = {}
        self._lock = Lock()

    @property
    def uri(self) -> str:
        """Return "memory:" and a number that differs within the process."""
        return f"memory:{id(self):x}"

    def check(self) -> None:
        """Do nothing: memory is always reachable."""
        self._ask("check", "")

    def put(self, key: str, data: bytes) -> None:
        """Store a small object; one of the same key is replaced."""
        self._ask("put", check_key(key))
        with self._lock:
            self._objects[key] = (bytes(data), self._clock_ns())

    def place(self, key: str, data: bytes, *, only_new: bool = False) -> bool:
        """Store an object without calling `trouble`; return whether it was stored."""
        with self._lock:
            if only_new and key in self._objects:
                return False
            self._objects[check_key(key)] = (bytes(data), self._clock_ns())
            return True

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        journal: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Store a file at once; `journal` is unused because nothing can be resumed."""
        self._ask("put_file", check_key(key))
        data = path.read_bytes()
        with self._lock:
            self._objects[key] = (data, self._clock_ns())
        if progress is not None:
            progress(len(data))

    def get(self, key: str) -> bytes:
        """Return a small object. Raises: NotFound."""
        self._ask("get", check_key(key))
        with self._lock:
            found = self._objects.get(key)
        if found is None:
            raise NotFound(f"there is no {key} in {self.uri}")
        return found[0]

    def get_file(self, key: str, path: Path, *, progress: Progress | None = None) -> None:
        """Write an object to `path`; it appears whole or not at all. Raises: NotFound."""
        self._ask("get_file", check_key(key))
        data = self.get(key)
        with resume_into(path, len(data), progress=progress) as part:
            part.write(data[part.start :])

    def stat(self, key: str) -> Stat | None:
        """Return size and time of an object, None when there is none."""
        self._ask("stat", check_key(key))
        with self._lock:
            found = self._objects.get(key)
        return None if found is None else Stat(key, len(found[0]), found[1])

    def list(self, prefix: str) -> Iterator[Stat]:
        """Yield all objects whose key starts with `prefix`, ordered by key."""
        self._ask("list", check_key_prefix(prefix))
        with self._lock:
            found = [
                Stat(key, len(data), at_ns)
                for key, (data, at_ns) in self._objects.items()
                if key.startswith(prefix)
            ]
        yield from sorted(found, key=lambda stat: stat.key)

    def compose(self, key: str, parts: Sequence[str]) -> None:
        """Join objects in the order given. Raises: NotFound for a missing part."""
        self._ask("compose", check_key(key))
        contents = [self.get(part) for part in parts]
        check_part_sizes([len(content) for content in contents])
        with self._lock:
            self._objects[key] = (b"".join(contents), self._clock_ns())

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are no error."""
        for key in keys:
            self._ask("delete", check_key(key))
            with self._lock:
                self._objects.pop(key, None)

    def keeps_versions(self) -> bool:
        """Return False: a deleted object is gone."""
        return False

    def expire_uploads(self, older_than_s: float) -> int:
        """Return 0: no transfer outlives its call."""
        self._ask("expire_uploads", "")
        return 0

    def close(self) -> None:
        """Do nothing; the objects exist as long as this object."""

    def _ask(self, verb: str, key: str) -> None:
        if self.trouble is not None:
            self.trouble(verb, key)
