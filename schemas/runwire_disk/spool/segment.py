"""Segment file of a live writer: preallocated, mapped, and filled with records."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from runwire_disk.spool.format import (
    DROP_REASONS,
    DROPPED_WORD,
    HEADER_BYTES,
    PHASE_BYTES,
    PHASE_OFFSET,
    SegmentHeader,
    segment_name,
)


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
        self._fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _allocate(self._fd, header.size)
            self._map = mmap.mmap(self._fd, header.size)
        except OSError:
            os.close(self._fd)
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

    def is_linked(self) -> bool:
        """Tell whether the file still has a name; false once the spool was deleted."""
        return os.fstat(self._fd).st_nlink > 0

    def sync(self) -> None:
        """Force committed records to the device. Blocks: one fdatasync."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Unmap and close; the file stays."""
        self.words.release()
        self.bytes.release()
        self._map.close()
        os.close(self._fd)


FIRST_RECORD = HEADER_BYTES


def _allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    # macOS: no posix_fallocate; writing every block is slower and gives the same promise.
    zeros = bytes(1 << 20)
    for offset in range(0, size, len(zeros)):
        os.pwrite(fd, zeros[: min(len(zeros), size - offset)], offset)
