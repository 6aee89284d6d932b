"""The protocol of an object store and its errors, as a folder, S3 and memory implement it.

Keys come from `layout`, never from user input. One suite in `tests/contract/` runs on all
implementations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from runwire_schemas.errors import RunwireError

__all__ = [
    "PART_BYTES_MIN",
    "UNAVAILABLE",
    "NotFound",
    "ObjectStore",
    "Progress",
    "Stat",
    "StoreAway",
    "StoreError",
    "StoreRefused",
    "check_part_sizes",
    "map_in_parallel",
]

# S3 joins no smaller parts, the last one excepted.
PART_BYTES_MIN: Final = 5 * 1024 * 1024
# Calls at once: enough to hide the latency of a store's answers.
PARALLEL_CALLS: Final = 8
T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[int], None]
"""Called with the bytes moved since the last call. Bytes that an interrupted transfer had moved are
reported too, so the sum is the size. It may raise: the transfer stops and the exception passes
through. Threads: any, one call at a time."""


class StoreError(RunwireError):
    """A call of an object store failed; the message says what to do."""


class NotFound(StoreError):  # noqa: N818 - a state of the store
    """No object has this key."""


class StoreAway(StoreError):  # noqa: N818 - a state of the world
    """No answer, or a passing failure: the same call may succeed later."""


class StoreRefused(StoreError):  # noqa: N818 - a decision of the store
    """Wrong credentials, a missing bucket, a full disk: a person has to act first."""


# Errors of the store itself, as opposed to damage of the objects in it.
UNAVAILABLE: Final = (StoreAway, StoreRefused, NotFound)


@dataclass(frozen=True, slots=True)
class Stat:
    """One object. Units: `modified_at_ns` is unix time by the store's clock."""

    key: str
    size: int
    modified_at_ns: int


class ObjectStore(Protocol):
    """Objects by key; each appears whole or not at all, and the same call again changes nothing.

    Every method raises StoreAway and StoreRefused. Threads: safe, calls may overlap.
    """

    @property
    def uri(self) -> str:
        """Return its address for people and views: "s3://bucket" or "file:///folder"."""
        ...

    def check(self) -> None:
        """Prove that the store can be read. Raises: StoreRefused, StoreAway."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store a small object; one of the same key is replaced."""
        ...

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        journal: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Store a file that no longer changes.

        `journal` is a path of the caller's that need not exist: with it, the same call resumes an
        interrupted one. Raises: OSError when `path` cannot be read.
        """
        ...

    def get(self, key: str) -> bytes:
        """Return a small object. Raises: NotFound."""
        ...

    def get_file(self, key: str, path: Path, *, progress: Progress | None = None) -> None:
        """Download an object to `path`, which appears whole or not at all.

        An interrupted call leaves `<path>.part`, from which the next one resumes. Raises: NotFound;
        OSError when `path` cannot be written.
        """
        ...

    def stat(self, key: str) -> Stat | None:
        """Return size and time of an object, None when there is none."""
        ...

    def list(self, prefix: str) -> Iterator[Stat]:
        """Yield all objects whose key starts with `prefix`, ordered by key."""
        ...

    def compose(self, key: str, parts: Sequence[str]) -> None:
        """Join objects into one, server-side, in the order given; the parts stay.

        Every part but the last has at least PART_BYTES_MIN. Raises: NotFound for a missing part.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are no error."""
        ...

    def keeps_versions(self) -> bool:
        """Return whether deleted objects stay as old versions, so that no space is freed."""
        ...

    def expire_uploads(self, older_than_s: float) -> int:
        """Abort unfinished transfers into the store that are older; return how many."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def check_part_sizes(sizes: Sequence[int]) -> None:
    """Raises: ValueError for parts that S3 would not join; every store refuses them alike."""
    if not sizes:
        raise ValueError("there are no parts to join")
    for number, size in enumerate(sizes[:-1]):
        if size < PART_BYTES_MIN:
            raise ValueError(f"part {number} has {size} bytes, fewer than {PART_BYTES_MIN}")


def map_in_parallel(call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return the results in the order of the items; several calls overlap."""
    arguments = list(items)
    if PARALLEL_CALLS < 2 or len(arguments) < 2:
        return [call(argument) for argument in arguments]
    with ThreadPoolExecutor(min(PARALLEL_CALLS, len(arguments))) as threads:
        return list(threads.map(call, arguments))
