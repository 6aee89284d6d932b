"""Capture of content into a staged folder of the outbox: clone, copy or hard link, per file.

docs/decisions/0006-content-is-captured-at-the-call.md has the choice and its figures.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

from runwire.errors import ArtifactError
from runwire.outbox.arguments import Entry
from runwire_disk.files import descriptor_shortage, remove_tree
from runwire_disk.interrupts import reraise_interrupt, suppressed
from runwire_disk.outbox.request import (
    CAPTURE_LOCK,
    CONTENT_DIR,
    REQUEST_FILE,
    RequestFile,
    UploadRequest,
    commit_staged,
    content_path,
)

__all__ = ["Capture", "Staged"]

_log = logging.getLogger("runwire")

# linux/fs.h: _IOW(0x94, 9, int). Other systems refuse it and get a copy.
_FICLONE: Final = 0x40049409
# Most bytes that one system call copies, so that signals are handled in between.
_COPY_BYTES: Final = 64 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024
# A file that was changed during the copy is copied again, this often and only if that is quick:
# training waits.
_TRIES: Final = 3
_RETRY_S: Final = 1.0
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
# O_NONBLOCK: opening a pipe must not wait for its writer. Links were resolved by the caller.
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
# Errors of copy_file_range where it is not supported: across or on special file systems.
_CANNOT: Final = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


class Staged:
    """Content and request of one artifact, not committed yet. Threads: one.

    The object itself changes nothing on the disk. Whoever calls `make` has entered its context
    before: an interrupt at any moment then finds somebody who cleans up. Leaving the context
    deletes the folder unless it was committed or promised. Its lock keeps agents from treating the
    folder as abandoned while the caller is alive. Raises: OSError.
    """

    request: UploadRequest | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pid = os.getpid()
        self._is_ours = False
        self._lock: io.FileIO | None = None

    def make(self, size: int) -> None:
        """Make the folder and reserve `size` bytes of the outbox for it."""
        with suppressed(FileExistsError):  # `exist_ok` would swallow any OSError of a handler
            self.folder.parent.mkdir(mode=0o700, parents=True)
        # Before it is there: an interrupt may come right after the system call.
        self._is_ours = True
        try:
            self.folder.mkdir(mode=0o700)
        except FileExistsError:
            self._is_ours = False  # another call's
            raise
        # A file object: the lock is released with it, whatever exception comes.
        self._lock = open(self.folder / CAPTURE_LOCK, "xb", buffering=0, opener=_private)  # noqa: SIM115
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._lock.write(b"%d" % size)
        (self.folder / CONTENT_DIR).mkdir(mode=0o700)

    def stage(self, request: UploadRequest) -> None:
        """Write the request; from here on only the commit is missing."""
        request.stage(self.folder)
        self.request = request

    def commit(self) -> None:
        """Hand the folder to the agent."""
        commit_staged(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._is_ours and self._pid == os.getpid():  # not in a forked child
                self._settle()
        finally:
            if self._lock is not None:
                self._lock.close()

    def _settle(self) -> None:
        """Delete what was not committed, unless what its request awaits is there already."""
        # Once committed it belongs to the agent, even if a signal handler raised in between.
        if (self.folder / REQUEST_FILE).exists():
            return
        awaits = "" if self.request is None else self.request.awaits
        if awaits and Path(awaits).exists():
            with suppressed(OSError):  # an agent commits it later
                self.commit()
        else:
            remove_tree(self.folder)


class Capture:
    """Brings content into one outbox folder. Threads: one at a time.

    `room` returns the bytes that copies may take on the disk now.
    """

    def __init__(self, folder: Path, room: Callable[[], int]) -> None:
        self._folder, self._room = folder, room
        self._left = -1
        self._cannot_clone: set[int] = set()

    def take(self, entry: Entry, index: int) -> RequestFile:
        """Capture one entry as content number `index`.

        Raises: ArtifactError for a problem of the source, OSError for one of the outbox's disk.
        """
        target = content_path(self._folder, index)
        if isinstance(entry.source, bytes):
            size = len(entry.source)
            self._make_room(size)
            with _create(target) as descriptor:
                _write(descriptor, entry.source)
        else:
            with _open_regular(entry.source) as source:
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
        retry_until_s = time.monotonic() + _RETRY_S
        for _ in range(_TRIES):
            before = os.fstat(source)
            self._make_room(before.st_size)
            with _create(target) as descriptor:
                copied = _copy_start(source, descriptor, path, size=before.st_size)
            after = os.fstat(source)
            if _version(after) == _version(before):
                return copied
            if after.st_size > before.st_size == copied:
                # A log, as a rule: what it had at the call is what a clone would have kept.
                _log.info("runwire: %s is growing: its first %d bytes are kept", path, copied)
                return copied
            target.unlink()
            self._left += before.st_size
            if time.monotonic() >= retry_until_s:
                break
        raise ArtifactError(
            f"{_shown(path)} was changed while it was copied. Log it when nobody writes to it any "
            "more, or give its content as bytes"
        )

    def _make_room(self, size: int) -> None:
        if self._left < size:
            self._left = self._room()
        if self._left < size:
            raise OSError(errno.ENOSPC, f"{size} bytes do not fit")
        self._left -= size


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[int]:
    """Open a regular file. Raises: ArtifactError for everything else."""
    try:
        descriptor = os.open(path, _OPEN)
    except OSError as error:
        raise ArtifactError(_unreadable(path, error)) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ArtifactError(f"{_shown(path)} is {_kind(mode)}: only files have content")
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _create(path: Path) -> Iterator[int]:
    descriptor = os.open(path, _CREATE, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # network file systems report a full disk only here


def _link(source: Path, state: os.stat_result, target: Path) -> bool:
    """Hard-link the file; false if that is not possible or the path was replaced meanwhile."""
    try:
        os.link(source, target)
    except OSError as error:
        reraise_interrupt(error)
        if error.errno in _FULL:
            raise
        return False  # across file systems, without links, or a file of another user
    linked = target.lstat()
    if (linked.st_dev, linked.st_ino) == (state.st_dev, state.st_ino):
        return True
    target.unlink()  # replaced in between
    return False


def _clone(source: int, target: Path) -> int:
    """Share the file's blocks copy-on-write; return its size, -1 where the file system cannot."""
    try:
        with _create(target) as descriptor:
            fcntl.ioctl(descriptor, _FICLONE, source)
            return os.fstat(descriptor).st_size
    except OSError as error:
        reraise_interrupt(error)
        if error.errno in _FULL:
            raise
        target.unlink(missing_ok=True)
        return -1


def _copy_start(source: int, target: int, path: Path, *, size: int) -> int:
    """Copy the first `size` bytes of a file, or all of one without a size; return how many.

    A file without a size, as in /proc, is read to its end.
    """
    os.lseek(source, 0, os.SEEK_SET)
    copied, by_kernel = 0, size > 0 and hasattr(os, "copy_file_range")
    while not size or copied < size:
        left = size - copied if size else _READ_BYTES
        try:
            if by_kernel:
                moved = os.copy_file_range(source, target, min(left, _COPY_BYTES))
                copied += moved
                if moved:
                    continue
                if copied:
                    break  # it became shorter
                by_kernel = False  # a special file whose size says nothing
            data = os.read(source, min(left, _READ_BYTES))
        except OSError as error:
            if error.errno in _FULL:
                raise
            if not by_kernel or copied or error.errno not in _CANNOT:
                raise ArtifactError(_unreadable(path, error)) from error
            by_kernel = False
            continue
        if not data:
            break
        _write(target, data)
        copied += len(data)
    return copied


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
    if shortage := descriptor_shortage(error):
        return f"{_shown(path)} cannot be read: {shortage}"
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


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
