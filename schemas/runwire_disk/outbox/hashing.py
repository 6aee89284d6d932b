"""Digests of content, and signatures that show whether a file was changed since."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from runwire_disk.outbox.request import OutboxError

__all__ = ["EMPTY_SHA256", "ContentGoneError", "Signature", "sha256_of", "signature"]

EMPTY_SHA256: Final = hashlib.sha256().hexdigest()
# hashlib releases the interpreter lock for this many bytes at a time: less than a trainer's step.
READ_BYTES = 1024 * 1024


class ContentGoneError(OutboxError):
    """A folder, pipe or device: reading it would fail, wait for a writer, or never end."""


class Signature(NamedTuple):
    """Facts of a file, of which one differs once it was written to or replaced."""

    size: int
    mtime_ns: int
    inode: int


def signature(path: Path) -> Signature:
    """Return the file's signature now. Raises: OSError."""
    found = path.stat()
    return Signature(found.st_size, found.st_mtime_ns, found.st_ino)


def sha256_of(path: Path, worked: Callable[[int], None]) -> str:
    """Return a file's SHA-256 in hex; `worked` gets the number of bytes after each read.

    Raises: ContentGoneError, OSError. Blocks: about a second per gigabyte.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(READ_BYTES))
    # Not waiting: what was a file when it was logged by reference may be a pipe by now.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(_checked(descriptor), "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
            worked(size)
    return digest.hexdigest()


def _checked(descriptor: int) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ContentGoneError
    return descriptor
