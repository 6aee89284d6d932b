"""Small files of a node: replaced in one step, forced to the device, locked by one process.

`runwire_store.folder.files.sync_folder` forces the names in a folder, on both media.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from runwire_disk.interrupts import reraise_interrupt, suppressed
from runwire_store.folder.files import sync_folder

__all__ = [
    "DESCRIPTORS_ADVICE",
    "NO_DESCRIPTORS",
    "descriptor_shortage",
    "is_locked",
    "read_json",
    "remove_tree",
    "replace_bytes",
    "replace_json",
    "sync_file",
    "try_lock",
    "write_all",
]

# Beside the file: a kill leaves it, and the next replacement overwrites it.
FRESH_SUFFIX: Final = ".new"
# The process, or the host, has no file descriptor left: that tells nothing about a file or a disk.
NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)
DESCRIPTORS_ADVICE: Final = (
    "No file descriptor is left: close files that are no longer used, or raise `ulimit -n`."
)


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
    except (OSError, ValueError) as error:
        reraise_interrupt(error)
        return None
    return fields if isinstance(fields, dict) else None


def remove_tree(folder: str | Path) -> None:
    """Delete a folder and what is in it, as far as that is possible.

    A link is left as it is, like all that it leads to. Unlike `shutil.rmtree(ignore_errors=True)`
    it swallows no interrupt.
    """
    with suppressed(OSError):
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                else:
                    with suppressed(OSError):
                        os.unlink(entry.path)  # noqa: PTH108 - a hundred thousand of them
        os.rmdir(folder)  # noqa: PTH106 - as above


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
    """Tell whether a process holds a file's lock; a file that does not exist has no holder.

    The probe takes a shared lock for microseconds, so that two probes do not see each other. What
    cannot be found out counts as locked: on a file system without locks, without permission, or
    when this process has no descriptor left to look with.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def descriptor_shortage(error: OSError | None = None) -> str:
    """Return what to do when `error` was that no file descriptor was left, "" for another error.

    Without an error it is tried now, for a library that does not say why it failed.
    """
    if error is None:
        try:
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as now:
            error = now
    is_short = error is not None and error.errno in NO_DESCRIPTORS
    return DESCRIPTORS_ADVICE.rstrip(".") if is_short else ""
