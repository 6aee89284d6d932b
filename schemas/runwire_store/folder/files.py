"""Files of this machine: each appears whole, on disk, or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # trainers import this module for `sync_folder`
    from runwire_store.store import Progress

__all__ = [
    "FULL",
    "PART_SUFFIX",
    "PartFile",
    "copy_bytes",
    "make_folder",
    "publish_file",
    "read_journal",
    "resume_into",
    "sync_folder",
    "write_journal",
]

PART_SUFFIX: Final = ".part"
# What a file system says when there is no more room: disk, quota, and the limit of a process.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Progress is told this often; below it the calls would cost more than the copying.
COPY_BYTES: Final = 8 * 1024 * 1024
# The kernel does not copy between these two files: bytes go through memory instead.
_NO_KERNEL_COPY = frozenset({errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
_MODE = 0o600
_FOLDER_MODE = 0o700


class PartFile:
    """A file being filled from `start`; what lies before it is from an earlier call."""

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
        """Tell that bytes were appended."""
        if self._progress is not None and count:
            self._progress(count)


@contextmanager
def resume_into(path: Path, size: int, *, progress: Progress | None = None) -> Iterator[PartFile]:
    """Fill `<path>.part` up to `size` bytes and make it `path`; an error leaves it for next time.

    Progress is told of the bytes found there too, so that the sum is the size.
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
    """Append `size` bytes of the source from its offset on, in the kernel where it can."""
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


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they are still there after a power cut."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        try:
            made.mkdir(mode=_FOLDER_MODE)
        except FileExistsError:
            # Made by somebody else meanwhile, and maybe pruned again: `exist_ok` takes that for a
            # file that is in the way. What needs the folder then finds it missing, and tries again.
            if made.exists() and not made.is_dir():
                raise
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder survive a power cut; where folders cannot be synced, nothing."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # network file systems that have no such thing
            raise
    finally:
        os.close(fd)


def publish_file(part: Path, path: Path) -> None:
    """Give a finished file its name, over one that has it."""
    part.replace(path)
    sync_folder(path.parent)


def read_journal(path: Path | None) -> dict[str, Any]:
    """Return what an earlier call noted; nothing when the note is missing or torn."""
    if path is None:
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_journal(path: Path, facts: dict[str, Any]) -> None:
    """Note how far a call came; a kill leaves the old note or the new one."""
    part = path.with_name(path.name + PART_SUFFIX)
    part.write_text(json.dumps(facts))
    part.replace(path)
