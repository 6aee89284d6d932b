"""Files of this machine: each appears whole and on disk, or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # trainers import this module for `sync_folder`
    from runwire_store.store import Progress

__all__ = [
    "FULL",
    "PART_SUFFIX",
    "PartFile",
    "copy_bytes",
    "hash_stream",
    "make_folder",
    "publish_file",
    "read_journal",
    "resume_into",
    "sync_folder",
    "write_journal",
]

PART_SUFFIX: Final = ".part"
# No more room: of the disk, of the quota, or of the process's limit.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Report progress at most once per this many bytes: more calls would cost more than the copying.
COPY_BYTES: Final = 8 * 1024 * 1024
# hashlib releases the interpreter lock for a block of this size, for less than a training step.
HASH_BYTES: Final = 1024 * 1024
# The kernel cannot copy between these two files: bytes are copied through memory.
_NO_KERNEL_COPY = frozenset({errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
_MODE = 0o600
_FOLDER_MODE = 0o700


class PartFile:
    """A file being filled from `start`; the bytes before it are from an earlier call."""

    def __init__(self, fd: int, start: int, progress: Progress | None) -> None:
        self.fd, self.start = fd, start
        self._progress = progress

    def write(self, data: bytes) -> None:
        """Append all of the data."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]
        self.moved(len(data))

    def moved(self, count: int) -> None:
        """Report that bytes were appended."""
        if self._progress is not None and count:
            self._progress(count)


@contextmanager
def resume_into(path: Path, size: int, *, progress: Progress | None = None) -> Iterator[PartFile]:
    """Fill `<path>.part` up to `size` bytes and rename it to `path`; after an error it is kept.

    Progress includes the bytes that an earlier call wrote, so the sum is the size.
    Raises: OSError; ValueError when the block wrote another number of bytes.
    """
    part = path.with_name(path.name + PART_SUFFIX)
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    try:
        start = os.fstat(fd).st_size
        if start > size:  # of another object
            os.ftruncate(fd, 0)
            start = 0
        os.lseek(fd, start, os.SEEK_SET)
        file = PartFile(fd, start, progress)
        file.moved(start)
        yield file
        found = os.fstat(fd).st_size
        if found != size:
            raise ValueError(f"{path} got {found} bytes of {size}")
        os.fsync(fd)
    finally:
        os.close(fd)
    publish_file(part, path)


def copy_bytes(source: int, target: PartFile, size: int) -> None:
    """Append `size` bytes of the source from its offset, copied by the kernel where possible."""
    left, in_kernel = size, True
    while left:
        count = 0
        if in_kernel:
            try:
                count = os.copy_file_range(source, target.fd, min(left, COPY_BYTES))
            except OSError as error:
                if error.errno not in _NO_KERNEL_COPY:
                    raise
                in_kernel = False
                continue
            target.moved(count)
        else:
            data = os.read(source, min(left, COPY_BYTES))
            count = len(data)
            target.write(data)
        if not count:
            raise OSError(errno.EIO, f"the file ended {left} bytes before its size")
        left -= count


def hash_stream(file: io.FileIO, progress: Progress | None = None) -> str:
    """Return the SHA-256, in hex, of the rest of a file. Raises: OSError.

    Blocks: about a second per gigabyte.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(HASH_BYTES))
    while size := file.readinto(buffer):
        digest.update(buffer[:size])
        if progress is not None:
            progress(size)
    return digest.hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, so that they survive a power cut."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        try:
            made.mkdir(mode=_FOLDER_MODE)
        except FileExistsError:
            # Another process made this folder and may delete it at any moment. One stat tells it
            # from a file in the way; `exist_ok` looks twice and reports a deleted folder as a file.
            # The caller of a deleted folder finds it missing and tries again.
            with suppress(FileNotFoundError):
                if not stat.S_ISDIR(made.stat().st_mode):
                    raise
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder survive a power cut, if the file system can sync folders."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # network file systems without it
            raise
    finally:
        os.close(fd)


def publish_file(part: Path, path: Path) -> None:
    """Rename a finished file into place; an existing one is replaced."""
    part.replace(path)
    sync_folder(path.parent)


def read_journal(path: Path | None) -> dict[str, Any]:
    """Return the journal of an earlier call, an empty one if it is missing or torn."""
    if path is None:
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_journal(path: Path, facts: dict[str, Any]) -> None:
    """Write the progress of a call; a kill leaves the old journal or the new one."""
    part = path.with_name(path.name + PART_SUFFIX)
    part.write_text(json.dumps(facts))
    part.replace(path)
