"""What is needed of an object store: nine verbs that a folder, S3 and memory can keep.

Keys come from `layout`, never from what users typed. One suite in `tests/contract/` runs on all
implementations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

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
]

# S3 joins no smaller parts, the last one excepted.
PART_BYTES_MIN: Final = 5 * 1024 * 1024

Progress = Callable[[int], None]
"""Is told how many bytes were moved since the last call, those of an interrupted call included, so
that the sum is the size. It may raise: the transfer stops there and the exception passes through.
Threads: any, one call at a time."""


class StoreError(RunwireError):
    """An object store did not do what was asked; the message says what to do."""


class NotFound(StoreError):  # noqa: N818 - a state of the store
    """No object has this key."""


class StoreAway(StoreError):  # noqa: N818 - a state of the world
    """No answer, or an answer of passing trouble: the same call may succeed later."""


class StoreRefused(StoreError):  # noqa: N818 - a decision of the store
    """Wrong credentials, a missing bucket, a full disk: a person has to act first."""


# What a store itself answers, as opposed to what is wrong with the things in it.
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
        """Return where it is, for people and views: "s3://bucket" or "file:///folder"."""
        ...

    def check(self) -> None:
        """Prove that the store can be read. Raises: StoreRefused, StoreAway."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store a small object, over one of the same key."""
        ...

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        journal: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Store a file that does not change any more.

        With `journal`, a file of the caller's that need not exist, the next call with the same
        arguments goes on where an interrupted one stopped. Raises: OSError when `path` cannot be
        read.
        """
        ...

    def get(self, key: str) -> bytes:
        """Return a small object. Raises: NotFound."""
        ...

    def get_file(self, key: str, path: Path, *, progress: Progress | None = None) -> None:
        """Bring an object to `path`; `path` appears whole or not at all.

        An interrupted call leaves `<path>.part`, where the next one goes on. Raises: NotFound;
        OSError when `path` cannot be written.
        """
        ...

    def stat(self, key: str) -> Stat | None:
        """Return what is known of an object, None when there is none."""
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
        """Remove objects; those that are not there are no error."""
        ...

    def expire_uploads(self, older_than_s: float) -> int:
        """Give up transfers into the store that began longer ago; return how many."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
