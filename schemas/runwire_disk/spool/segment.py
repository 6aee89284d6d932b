"""Segment file of a live writer: preallocated, mapped, and filled with records."""

from __future__ import annotations

import io
import mmap
import os
import sys
from pathlib import Path

from runwire_disk.interrupts import suppressed
from runwire_disk.spool.format import (
    AWAITED_WORD,
    DROP_REASONS,
    DROPPED_WORD,
    HEADER_BYTES,
    PHASE_BYTES,
    PHASE_OFFSET,
    SegmentHeader,
    segment_name,
)

_MADV_POPULATE_WRITE = 23  # linux/mman.h


class Segment:
    """A live segment; `words` is the file as u64[], `bytes` the same as bytes.

    Raises: OSError at creation when the disk or quota of the file system is full.
    """

    def __init__(self, folder: Path, series: str, header: SegmentHeader) -> None:
        self.size = header.size
        self.number = header.number
        self.base_accepted = header.base_accepted
        self.path = folder / segment_name(series, header.number)
        hidden = folder / f".{self.path.name}"
        self._file = _SegmentFile(hidden, "w+", opener=_private)
        try:
            _allocate(self._file.fileno(), header.size)
            self._map = mmap.mmap(self._file.fileno(), header.size)
        except BaseException:
            self._file.close()
            hidden.unlink(missing_ok=True)
            raise
        self.bytes = memoryview(self._map)
        self.words = self.bytes.cast("Q")
        packed = header.pack()
        self.bytes[: len(packed)] = packed
        hidden.rename(self.path)

    def set_counts(self, dropped: dict[str, int], phase: str) -> None:
        """Show drop counters and the phase to readers of the header."""
        for index, reason in enumerate(DROP_REASONS):
            self.words[DROPPED_WORD + index] = dropped.get(reason, 0)
        raw = phase.encode("utf-8")[: PHASE_BYTES - 1]
        self.bytes[PHASE_OFFSET : PHASE_OFFSET + PHASE_BYTES] = raw.ljust(PHASE_BYTES, b"\0")

    def set_awaited(self, accepted: int) -> None:
        """Tell the reader that a caller waits until its cursor has this many points."""
        self.words[AWAITED_WORD] = accepted

    def is_linked(self) -> bool:
        """Tell whether the file still has a name; false once the spool was deleted."""
        return os.fstat(self._file.fileno()).st_nlink > 0

    def populate(self, start: int, end: int) -> None:
        """Make the pages of a range present and writable, so that stores do not fault.

        A kernel before 5.14 and other systems refuse; the stores fault then.
        """
        start -= start % mmap.PAGESIZE
        with suppressed(OSError, ValueError):
            if sys.platform == "linux":  # elsewhere the number means something else
                self._map.madvise(_MADV_POPULATE_WRITE, start, min(end, self.size) - start)

    def sync(self) -> None:
        """Force committed records to the device. Blocks: one fdatasync."""
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Unmap and close; the file stays."""
        self.words.release()
        self.bytes.release()
        self._map.close()
        self._file.close()


FIRST_RECORD = HEADER_BYTES


class _SegmentFile(io.FileIO):
    """A file that is closed with its last reference, without a warning.

    An interrupt may drop a segment before anybody could close it, and a forked child drops those
    of its parent.
    """

    def __del__(self) -> None:
        self.close()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    # macOS: no posix_fallocate; writing every block is slower and gives the same promise.
    zeros = bytes(1 << 20)
    for offset in range(0, size, len(zeros)):
        os.pwrite(fd, zeros[: min(len(zeros), size - offset)], offset)
