"""Small files of a node: replaced in one step, forced to the device, locked by one process.

`runwire_store.folder.files.sync_folder` forces the names in a folder, on both media.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from runwire_store.folder.files import sync_folder

__all__ = [
    "is_locked",
    "read_json",
    "replace_bytes",
    "replace_json",
    "sync_file",
    "try_lock",
    "write_all",
]

# Beside the file: a kill leaves it, and the next replacement overwrites it.
FRESH_SUFFIX: Final = ".new"


def replace_bytes(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Replace a file in one step: a kill leaves the old content or the new one.

    With `sync` a power cut does too, and the new content is on the device afterwards.
    Raises: OSError. Blocks: with `sync`, two fsyncs.
    """
    fresh = path.with_name(path.name + FRESH_SUFFIX)
    fresh.write_bytes(data)
    if sync:
        sync_file(fresh)
    fresh.replace(path)
    if sync:
        sync_folder(path.parent)


def replace_json(path: Path, fields: Mapping[str, Any], *, indent: int | None = None) -> None:
    """Replace a file of one JSON object in one step. Raises: OSError."""
    replace_bytes(path, json.dumps(fields, indent=indent).encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a file's JSON object; None when there is no file, or nothing readable in it."""
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None


def sync_file(path: Path) -> None:
    """Force a file's content to the device. Raises: OSError. Blocks: one fsync."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, however little one call takes. Raises: OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def try_lock(fd: int) -> bool:
    """Take the exclusive lock of an open file; false when another process has it.

    The kernel frees the lock with the last descriptor of it, so on any kind of death too.
    Raises: OSError where the file system has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Tell whether a process holds a file's lock; a file that cannot be opened has no holder.

    The probe takes a shared lock for microseconds, so that two probes do not see each other. A
    file system that cannot tell counts as locked.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
