"""Digests of outbox content, and signatures that detect changes of a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runwire_disk.outbox.request import OutboxError
from runwire_store.folder.files import hash_stream

__all__ = ["ContentGoneError", "Signature", "hash_file", "signature"]


class ContentGoneError(OutboxError):
    """The path is now a folder, pipe or device: reading it could fail or never end."""


class Signature(NamedTuple):
    """Facts of a file that change when it is written to or replaced."""

    size: int
    mtime_ns: int
    inode: int


def signature(path: Path) -> Signature:
    """Return the file's signature now. Raises: OSError."""
    found = path.stat()
    return Signature(found.st_size, found.st_mtime_ns, found.st_ino)


def hash_file(path: Path, worked: Callable[[int], None]) -> str:
    """Return a file's SHA-256 in hex; `worked` is called with the bytes read since the last call.

    Raises: ContentGoneError, OSError. Blocks: about a second per gigabyte.
    """
    # Non-blocking: a file that was logged by reference may have become a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(_checked(descriptor), "rb", buffering=0) as file:
        return hash_stream(file, worked)


def _checked(descriptor: int) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ContentGoneError
    return descriptor
