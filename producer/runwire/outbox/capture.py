"""Makes content safe against later change: clone, copy or hard link, decided per file.

docs/decisions/0006-content-is-captured-at-the-call.md has the choice and its figures.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runwire.errors import ArtifactError
from runwire_disk.outbox.request import RequestFile, content_path

__all__ = ["Capture", "Entry"]

# linux/fs.h: _IOW(0x94, 9, int). Other systems refuse it and get a copy.
_FICLONE: Final = 0x40049409
# What one system call copies at most, so that a signal is heard in between.
_COPY_BYTES: Final = 64 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024
# A file that changed under the copy is copied again. One that is written all the time never ends.
_TRIES: Final = 3
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
# O_NONBLOCK: opening a pipe must not wait for its writer. Links were resolved by the caller.
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
# What copy_file_range answers where it cannot: between file systems, or on special ones.
_CANNOT: Final = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of an artifact: a file to capture, or bytes.

    `immutable` promises that nobody writes into the file any more: it is hard-linked at no cost.
    `by_reference` moves no content: the file has to stay where it is, or where it `lies_at` soon.
    """

    path: str
    source: Path | bytes
    immutable: bool = False
    sha256: str = ""
    by_reference: bool = False
    lies_at: Path | None = None


class Capture:
    """Brings content into one outbox folder. Threads: one at a time.

    `room` says how many bytes copies may take of the disk now.
    """

    def __init__(self, folder: Path, room: Callable[[], int]) -> None:
        self._folder, self._room = folder, room
        self._left = -1
        self._cannot_clone: set[int] = set()

    def take(self, entry: Entry, index: int) -> RequestFile:
        """Make content number `index`.

        Raises: ArtifactError for what is wrong with the source, OSError for the outbox's own disk.
        """
        target = content_path(self._folder, index)
        if isinstance(entry.source, bytes):
            size = len(entry.source)
            self._make_room(size)
            with _created(target) as descriptor:
                _write(descriptor, entry.source)
        else:
            with _opened(entry.source) as source:
                size = self._capture(source, entry, target)
        return RequestFile(path=entry.path, index=index, size=size, sha256=entry.sha256)

    def _capture(self, source: int, entry: Entry, target: Path) -> int:
        assert isinstance(entry.source, Path)
        state = os.fstat(source)
        if entry.immutable and _link(entry.source, state, target):
            return state.st_size
        if state.st_dev not in self._cannot_clone:
            size = _clone(source, target)
            if size >= 0:
                return size
            self._cannot_clone.add(state.st_dev)
        return self._copy(source, entry.source, target)

    def _copy(self, source: int, path: Path, target: Path) -> int:
        for _ in range(_TRIES):
            before = os.fstat(source)
            self._make_room(before.st_size)
            with _created(target) as descriptor:
                copied = _copy_all(source, descriptor, path)
            if _version(os.fstat(source)) == _version(before):
                return copied
            target.unlink()
            self._left += before.st_size
        raise ArtifactError(
            f"{_shown(path)} changes all the time: {_TRIES} copies of it were of no one state. Log "
            "it when nobody writes it any more, or give its content as bytes"
        )

    def _make_room(self, size: int) -> None:
        if self._left < size:
            self._left = self._room()
        if self._left < size:
            raise OSError(errno.ENOSPC, f"{size} bytes do not fit")
        self._left -= size


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a regular file. Raises: ArtifactError for everything else."""
    try:
        descriptor = os.open(path, _OPEN)
    except OSError as error:
        raise ArtifactError(_unreadable(path, error)) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ArtifactError(f"{_shown(path)} is {_kind(mode)}: only files have content to keep")
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _created(path: Path) -> Iterator[int]:
    descriptor = os.open(path, _CREATE, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # network file systems say only here that the disk is full


def _link(source: Path, state: os.stat_result, target: Path) -> bool:
    """Give the file a second name, and make sure that it is the file which was opened."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _FULL:
            raise
        return False  # another file system, one without links, or a file of somebody else
    linked = target.lstat()
    if (linked.st_dev, linked.st_ino) == (state.st_dev, state.st_ino):
        return True
    target.unlink()  # replaced in between
    return False


def _clone(source: int, target: Path) -> int:
    """Share the file's blocks copy-on-write; return its size, -1 where that cannot be."""
    try:
        with _created(target) as descriptor:
            fcntl.ioctl(descriptor, _FICLONE, source)
            return os.fstat(descriptor).st_size
    except OSError as error:
        if error.errno in _FULL:
            raise
        target.unlink(missing_ok=True)
        return -1


def _copy_all(source: int, target: int, path: Path) -> int:
    """Copy from the start to the end as it is now; return how much that was."""
    os.lseek(source, 0, os.SEEK_SET)
    copied, by_kernel = 0, hasattr(os, "copy_file_range")
    while True:
        try:
            if by_kernel:
                moved = os.copy_file_range(source, target, _COPY_BYTES)
                if moved or copied:
                    copied += moved
                    if not moved:
                        return copied
                    continue
                by_kernel = False  # empty, or one of those files whose size nobody knows
            data = os.read(source, _READ_BYTES)
        except OSError as error:
            if error.errno in _FULL:
                raise
            if not by_kernel or copied or error.errno not in _CANNOT:
                raise ArtifactError(_unreadable(path, error)) from error
            by_kernel = False
            continue
        if not data:
            return copied
        _write(target, data)
        copied += len(data)


def _write(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _version(state: os.stat_result) -> tuple[int, int]:
    return state.st_size, state.st_mtime_ns


def _unreadable(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"{_shown(path)} does not exist (any more)"
    if error.errno == errno.ELOOP:
        return f"{_shown(path)} became a link while it was being captured"
    advice = "; make it readable for this user" if error.errno == errno.EACCES else ""
    return f"{_shown(path)} cannot be read: {error.strerror or error}{advice}"


def _kind(mode: int) -> str:
    for is_kind, name in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if is_kind(mode):
            return name
    return "a device"


def _shown(path: Path) -> str:
    text = repr(str(path))
    return text if len(text) <= 300 else f"{text[:140]}…{text[-140:]}"
