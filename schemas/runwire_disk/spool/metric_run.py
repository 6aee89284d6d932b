"""Run of equal metric records: neighbours of one layout, checked and read column by column.

A trainer logs the same keys for hours, so most of a segment is such runs. Strided views of the
chunk give each field of all records at once; only the CRC takes a call per record.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from runwire_disk.spool.format import METRIC, METRIC_HEAD, WORD_BYTES

__all__ = ["RUN_MIN", "MetricRun", "find_run"]

RUN_MIN: Final = 4  # shorter ones are not worth the views
RUN_MAX: Final = 128  # bounds what a run costs that ends after a few records
# Words of a record: commit word, seq, call, at, step, accepted, layout and count, values.
_SEQ, _CALL, _AT, _STEP, _ACCEPTED, _LAYOUT, _VALUES = range(1, 8)
_HEAD_BYTES: Final = METRIC_HEAD.size


class MetricRun(NamedTuple):
    """`records` metric records from `seq` on, one after the other at `at` of `chunk`.

    Units: `words` of a record, its commit word included.
    """

    seq: int
    records: int
    layout: int
    n: int
    words: int
    chunk: bytes
    at: int

    @property
    def last_seq(self) -> int:
        """Return the sequence number of the last record."""
        return self.seq + self.records - 1

    def part(self, first_seq: int, last_seq: int) -> MetricRun | None:
        """Return the records of these numbers; None when there are none."""
        first, last = max(self.seq, first_seq), min(self.last_seq, last_seq)
        if first > last:
            return None
        at = self.at + (first - self.seq) * self.words * WORD_BYTES
        return self._replace(seq=first, records=last - first + 1, at=at)

    def column(self, word: int) -> list[int]:
        """Return one signed word of every record."""
        first = self.at // WORD_BYTES + word
        view = memoryview(self.chunk)[: len(self.chunk) & ~7].cast("q")
        return view[first : first + (self.records - 1) * self.words + 1 : self.words].tolist()

    @property
    def calls(self) -> list[int]:
        """Return the call numbers."""
        return self.column(_CALL)

    @property
    def ats_ns(self) -> list[int]:
        """Return the times."""
        return self.column(_AT)

    @property
    def steps(self) -> list[int]:
        """Return the steps."""
        return self.column(_STEP)

    @property
    def accepted(self) -> list[int]:
        """Return the running totals of points."""
        return self.column(_ACCEPTED)

    def values(self) -> bytes:
        """Return the values of all records, one after the other."""
        stride, size, chunk = self.words * WORD_BYTES, self.n * WORD_BYTES, self.chunk
        first = self.at + _VALUES * WORD_BYTES
        starts = range(first, first + stride * self.records, stride)
        return b"".join([chunk[start : start + size] for start in starts])

    def bodies(self) -> Iterator[bytes]:
        """Yield the body of each record."""
        stride = self.words * WORD_BYTES
        for at in range(self.at, self.at + stride * self.records, stride):
            yield self.chunk[at + WORD_BYTES : at + stride]


def find_run(chunk: bytes, at: int, expected_seq: int) -> MetricRun | None:
    """Return the valid records from `at` on that are like the first; None when it is no run.

    The first record of a chunk that does not fit ends the run, for whatever reason.
    """
    low = int.from_bytes(chunk[at : at + 4], "little")
    length = low & 0xFFFFFF
    if low >> 24 != METRIC or length < _HEAD_BYTES or length % WORD_BYTES:
        return None
    stride = WORD_BYTES + length
    words, count = stride // WORD_BYTES, min(RUN_MAX, (len(chunk) - at) // stride)
    if count < RUN_MIN or not _is_repeated(chunk, at, stride):
        return None
    whole = memoryview(chunk)[at : at + stride * count]
    halves, numbers = whole.cast("I"), whole.cast("Q")
    count = _equal(halves[:: 2 * words].tolist(), [low] * count)
    seqs = numbers[_SEQ::words].tolist()[:count]
    count = _equal(seqs, list(range(expected_seq, expected_seq + count)))
    layout = numbers[_LAYOUT]
    n = layout >> 32
    if n * WORD_BYTES != length - _HEAD_BYTES:
        return None
    count = _equal(numbers[_LAYOUT::words].tolist()[:count], [layout] * count)
    crc32 = zlib.crc32
    bodies = range(at + WORD_BYTES, at + stride * count, stride)
    crcs = [crc32(chunk[body : body + length], low) for body in bodies]
    count = _equal(crcs, halves[1 :: 2 * words].tolist()[:count])
    if count < RUN_MIN:
        return None
    return MetricRun(expected_seq, count, layout & 0xFFFFFFFF, n, words, chunk, at)


def _is_repeated(chunk: bytes, at: int, stride: int) -> bool:
    """Tell whether the next records seem to have the length and the layout of this one."""
    layout = at + _LAYOUT * WORD_BYTES
    return all(
        chunk[at : at + 4] == chunk[at + ahead : at + ahead + 4]
        and chunk[layout : layout + 8] == chunk[layout + ahead : layout + ahead + 8]
        for ahead in (stride, (RUN_MIN - 1) * stride)
    )


def _equal(found: list[int], wanted: list[int]) -> int:
    """Return how many items are equal from the first on."""
    if found == wanted:
        return len(wanted)
    pairs = enumerate(zip(found, wanted, strict=True))
    return next(index for index, (have, want) in pairs if have != want)
