"""Scan of the committed records of one segment; damage is reported and stepped over.

A scan never trusts a length before the CRC over it holds, never reads past the file, and after
damage looks for the next record on the 8-byte grid whose sequence number and CRC both fit.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

from runwire_disk.spool.format import (
    AWAITED_WORD,
    HEADER_BYTES,
    KINDS,
    LAST_WORD,
    METRIC,
    RECORD_HEAD,
    WORD_BYTES,
    SegmentHeader,
    SpoolError,
)
from runwire_disk.spool.metric_run import MetricRun, find_run

_U64 = struct.Struct("<Q")


class SpoolRecord(NamedTuple):
    """One committed record; `body` is seq (8 bytes) + payload."""

    seq: int
    kind: int
    body: bytes

    @property
    def last_seq(self) -> int:
        """Return its sequence number, as the last of a run of one."""
        return self.seq


@dataclass(frozen=True, slots=True)
class Damage:
    """Stretch of a segment that should hold records and does not."""

    series: str
    segment: int
    offset: int
    size: int
    lost_records: int
    first_seq: int
    data: bytes  # at most DAMAGE_BYTES_KEPT of it, for the dead letter

    @property
    def reason(self) -> str:
        """Describe the stretch and its loss in a sentence."""
        lost = (
            f"{self.lost_records} records" if self.lost_records else "an unknown number of records"
        )
        where = f"{self.size} bytes at offset {self.offset} of {self.series} segment {self.segment}"
        return f"damaged spool: {where} do not parse; {lost} from seq {self.first_seq} on are lost"


DAMAGE_BYTES_KEPT = 4096
# Holds the last record of a segment, which begins where the tail is: 2,000 doubles and more.
BEYOND_TAIL_BYTES = 16 * 1024


@dataclass(slots=True)
class Scan:
    """Position in one segment; `step` yields what has been committed since."""

    series: str
    number: int
    fd: int
    size: int
    expected_seq: int
    position: int = HEADER_BYTES
    header_error: str = ""
    damages: list[Damage] = field(default_factory=list)

    def tail(self) -> int:
        """Return a position below which everything was committed; the size when unknown."""
        last = int.from_bytes(os.pread(self.fd, WORD_BYTES, LAST_WORD * WORD_BYTES), "little")
        if last == 0:
            return HEADER_BYTES if not self.header_error else self.size
        if not HEADER_BYTES <= last < self.size or last % 8:
            return self.size
        return last + WORD_BYTES

    def awaited(self) -> int:
        """Return how many accepted points a caller waits for."""
        return int.from_bytes(os.pread(self.fd, WORD_BYTES, AWAITED_WORD * WORD_BYTES), "little")

    def has_moved(self) -> bool:
        """Tell whether the header names a record that was not read yet: one small read."""
        return self.position < self.tail()

    def step(self, bytes_max: int, *, sealed: bool) -> list[SpoolRecord]:
        """Return the next committed records, about `bytes_max` of them, empty at the end.

        `sealed` says that nothing will be appended any more, so what does not parse is damage.
        """
        records: list[SpoolRecord] = []
        for found in self.step_runs(bytes_max, sealed=sealed):
            if isinstance(found, MetricRun):
                bodies = enumerate(found.bodies(), found.seq)
                records += [SpoolRecord(seq, METRIC, body) for seq, body in bodies]
            else:
                records.append(found)
        return records

    def step_runs(self, bytes_max: int, *, sealed: bool) -> list[SpoolRecord | MetricRun]:
        """Return what `step` does, with equal metric records as runs."""
        tail = self.tail()
        records: list[SpoolRecord | MetricRun] = []
        if self.position >= tail and not any(os.pread(self.fd, WORD_BYTES, self.position)):
            return records  # nothing was committed here: most looks end so, and cheaply
        beyond = BEYOND_TAIL_BYTES
        while self.position + 16 <= self.size and not records:
            # What was never written is not read: beyond the tail there is hardly a record.
            near = max(tail - self.position, 0) + beyond
            want = min(bytes_max, self.size - self.position, near)
            chunk = os.pread(self.fd, want, self.position)
            used, stop = self._parse(chunk, records)
            self.position += used
            if stop == "short" and len(chunk) < self.size - self.position:
                if used:
                    continue
                if bytes_max < self.size or beyond < self.size:  # a record longer than the chunk
                    bytes_max, beyond = min(bytes_max * 4, self.size), self.size
                    continue
                stop = "bad"
            if stop == "end":
                continue
            if records or not self._resync(stop, tail, sealed=sealed):
                break
        return records

    def _parse(self, chunk: bytes, records: list[SpoolRecord | MetricRun]) -> tuple[int, str]:
        """Parse records from `chunk`; return (bytes used, why it stopped)."""
        at, end, expected = 0, len(chunk), self.expected_seq
        unpack, crc32 = RECORD_HEAD.unpack_from, zlib.crc32
        stop = "end"
        while at < end:
            if at + 16 > end:
                stop = "short"
                break
            word, seq = unpack(chunk, at)
            if word == 0:
                stop = "zero"
                break
            low = word & 0xFFFFFFFF
            length = low & 0xFFFFFF
            following = at + 8 + ((length + 7) & ~7)
            if following > end:
                stop = "short"
                break
            run = find_run(chunk, at, expected) if low >> 24 == METRIC else None
            if run is not None:
                records.append(run)
                expected += run.records
                at += run.records * run.words * WORD_BYTES
                continue
            body = chunk[at + 8 : at + 8 + length]
            if crc32(body, low) != word >> 32 or seq != expected:
                stop = "bad"
                break
            records.append(SpoolRecord(seq, low >> 24, body))
            expected += 1
            at = following
        self.expected_seq = expected
        return at, stop

    def _resync(self, stop: str, tail: int, *, sealed: bool) -> bool:
        """Step over damage at the position; False when there is nothing more to read (yet)."""
        if self.position >= tail and (stop == "zero" or not sealed):
            return False  # not written yet, or a torn tail: nothing was committed here
        found = self._next_valid()
        if found is not None:
            position, seq = found
            self._damaged(position, lost=seq - self.expected_seq)
            self.position, self.expected_seq = position, seq
            return True
        if sealed:  # a live segment is judged once a later record is there
            if self.position < tail and (tail < self.size or self._any_data()):
                self._damaged(tail, lost=0)
            self.position = self.size
        return False

    def _any_data(self) -> bool:
        rest = os.pread(self.fd, self.size - self.position, self.position)
        return rest.count(0) != len(rest)

    def _damaged(self, end: int, *, lost: int) -> None:
        size = end - self.position
        if size <= 0:
            return
        data = os.pread(self.fd, min(size, DAMAGE_BYTES_KEPT), self.position)
        self.damages.append(
            Damage(self.series, self.number, self.position, size, lost, self.expected_seq, data)
        )

    def _next_valid(self) -> tuple[int, int] | None:
        """Find the next position after the current one that holds a whole, fitting record."""
        rest = os.pread(self.fd, self.size - self.position, self.position)
        words = [w for (w,) in _U64.iter_unpack(rest[: len(rest) & ~7])]
        # The smallest record takes two words, so this bounds the sequence numbers that can follow.
        seq_max = self.expected_seq + len(words)
        for index in range(1, len(words) - 1):
            word, seq = words[index], words[index + 1]
            if not word or not self.expected_seq <= seq <= seq_max:
                continue
            low = word & 0xFFFFFFFF
            start, length = index * 8 + 8, low & 0xFFFFFF
            if low >> 24 not in KINDS or length < 8 or start + length > len(rest):
                continue
            if zlib.crc32(rest[start : start + length], low) == word >> 32:
                return self.position + index * 8, seq
        return None


def open_scan(path: str | os.PathLike[str], *, series: str, number: int, expected: int) -> Scan:
    """Open a segment for scanning from its first record.

    `expected` is the sequence number the series should continue with; it is used when the header
    is damaged. Raises: OSError when the file cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    size = os.fstat(fd).st_size
    scan = Scan(series, number, fd, size & ~7, expected)
    try:
        header = SegmentHeader.unpack(os.pread(fd, HEADER_BYTES, 0))
    except SpoolError as error:
        scan.header_error = str(error)
        return scan
    if header.base_seq > expected:
        scan.damages.append(Damage(series, number, 0, 0, header.base_seq - expected, expected, b""))
    scan.expected_seq = header.base_seq
    return scan
