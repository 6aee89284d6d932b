"""Quota of a spool folder: admits or refuses new segments when space gets short.

System samples and console lines are refused first, then the oldest unread metric segments are
deleted; lifecycle records are never refused here.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from runwire_disk.files import try_lock
from runwire_disk.interrupts import reraise_interrupt
from runwire_disk.spool.format import (
    HEADER_BYTES,
    READER_LOCK,
    SEGMENT_BYTES_MIN,
    SegmentHeader,
    SpoolError,
    read_cursor,
    segment_name,
    write_cursor,
)
from runwire_disk.spool.series_writer import Series

# Share of the quota that each class may fill: the lowest class goes first.
_SHARES = {"lifecycle": None, "metric": 1.0, "log": 0.8, "system": 0.8}
# An absolute cap beside the ratio: on a 10 TB disk 10 % would be a terabyte of refusal.
_FREE_BYTES_WANTED_MAX = 1024**3
FREE_RATIO_MIN = 0.10
_PAGE = 4096
_RETRY_INTERVAL_S = 1.0


class QuotaExceeded(SpoolError, OSError):  # noqa: N818 - reads as the reason of a drop
    """The writer's share of the disk is used up."""


def bytes_kept_free(disk: os.statvfs_result, free_ratio_min: float) -> float:
    """Return how many bytes of a disk runwire keeps free."""
    return min(disk.f_blocks * disk.f_frsize * free_ratio_min, _FREE_BYTES_WANTED_MAX)


class Quota:
    """Admits or refuses new segments of one writer folder."""

    def __init__(
        self, folder: Path, bytes_max: int, free_ratio_min: float = FREE_RATIO_MIN
    ) -> None:
        self._folder, self._bytes_max, self._free_ratio_min = folder, bytes_max, free_ratio_min
        self._refused: dict[str, tuple[float, OSError]] = {}
        # Points in segments that were deleted to make room, and the cause; the writer counts them.
        self.evicted_points = 0
        self.eviction_cause = "quota"

    def admit(self, series: Series) -> None:
        """Raises: QuotaExceeded or OSError when `series` may not open another segment now."""
        share = _SHARES[series.name]
        if share is None:
            return
        now = time.monotonic()
        until, last = self._refused.get(series.name, (0.0, None))
        if last is not None and now < until:
            raise last  # asking the file system at every call would slow the trainer
        try:
            self._check(series, share)
        except OSError as error:
            reraise_interrupt(error)
            self._refused[series.name] = (now + _RETRY_INTERVAL_S, error)
            raise
        self._refused.pop(series.name, None)

    def reason(self, error: OSError) -> str:
        """Return the drop reason for an error of a segment's creation."""
        if isinstance(error, QuotaExceeded):
            return "quota"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "disk_full"
        if error.errno in (errno.ENOENT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.ESTALE):
            return "unwritable"
        return "other"

    def refuse(self, series: Series, error: OSError) -> None:
        """Remember a failed creation so that the next calls fail fast."""
        self._refused[series.name] = (time.monotonic() + _RETRY_INTERVAL_S, error)

    def _check(self, series: Series, share: float) -> None:
        while True:
            disk = os.statvfs(self._folder)  # shutil would import every compressor for it
            wanted = bytes_kept_free(disk, self._free_ratio_min)
            left = int(self._bytes_max * share) - self._used()
            room = min(left, int(disk.f_bavail * disk.f_frsize - wanted))
            # The last room is used too, by a segment smaller than its turn would be.
            if room >= min(series.next_segment_bytes(), SEGMENT_BYTES_MIN):
                series.limit_next_segment(room // _PAGE * _PAGE)
                return
            is_quota = left == room
            self.eviction_cause = "quota" if is_quota else "disk_full"
            if series.name != "metric" or not self._drop_oldest(series):
                raise self._refusal(is_quota, int(wanted))

    def _refusal(self, is_quota: bool, wanted: int) -> OSError:
        if is_quota:
            return QuotaExceeded(
                errno.EDQUOT, "the spool quota is used up and nobody reads the spool"
            )
        return OSError(
            errno.ENOSPC,
            f"the disk of {self._folder} is full (runwire leaves {wanted / 2**20:.1f} MiB free)",
        )

    def _used(self) -> int:
        with os.scandir(self._folder) as entries:
            return sum(e.stat().st_size for e in entries if e.name.endswith(".seg"))

    def _drop_oldest(self, series: Series) -> int:
        """Delete the oldest sealed metric segment if nobody reads this folder; return its size."""
        live = series.segment
        if live is None:
            return 0
        fd = os.open(self._folder / READER_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _is_reader_away(fd):
                return 0  # a reader is at work and will free space itself
            return self._drop(live.number)
        finally:
            os.close(fd)

    def _drop(self, live: int) -> int:
        names = sorted(path.name for path in self._folder.glob("metric-*"))
        if not names or names[0] == segment_name("metric", live):
            return 0
        try:
            following = self._header(names[1])
        except SpoolError:
            return 0  # damaged: the reader reports it
        cursor = read_cursor(self._folder)
        delivered = max(cursor.accepted, cursor.skip_accepted)
        self.evicted_points += max(0, following.base_accepted - delivered)
        cursor.skip_seq = max(cursor.skip_seq, following.base_seq)
        cursor.skip_accepted = max(cursor.skip_accepted, following.base_accepted)
        write_cursor(self._folder, cursor)
        oldest = self._folder / names[0]
        size = oldest.stat().st_size
        oldest.unlink()
        return size

    def _header(self, name: str) -> SegmentHeader:
        with (self._folder / name).open("rb") as file:
            return SegmentHeader.unpack(file.read(HEADER_BYTES))


def _is_reader_away(fd: int) -> bool:
    """Take the reader's lock; false when a reader has it, or may have it."""
    try:
        return try_lock(fd)
    except OSError:  # a file system without locks
        return False
