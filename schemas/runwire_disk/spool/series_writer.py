"""Writer of one series of segments.

`state` is one tuple on purpose: an exception from outside (Ctrl-C) between two bytecodes leaves
either the old or the new position, never half of it. If it strikes while an append stores,
`is_storing` stays true and the next append settles first: it adopts a whole record at the position,
and wipes the word of anything else. What is left of a longer body is overwritten, word by word.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runwire_disk.spool.format import (
    KINDS,
    LAST_WORD,
    METRIC,
    METRIC_HEAD,
    RECORD_BYTES_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    SEGMENT_GROWTH,
    WIDE,
    SegmentHeader,
    SpoolError,
    commit_word,
    padded,
)
from runwire_disk.spool.segment import FIRST_RECORD, Segment
from runwire_disk.spool.series_lock import SeriesLock

# Room for the zero word that ends a segment and for the head of the record that does not fit.
_END_BYTES = 16
# How far pages are made present: a fault costs more than a record, and comes every 28 records.
AHEAD_BYTES_MAX = 256 * 1024
AHEAD_RECORDS_MIN = 128


class RecordTooLarge(SpoolError, ValueError):  # noqa: N818 - reads as the reason of a drop
    """A record does not fit any segment."""


class SeriesClosed(SpoolError):  # noqa: N818 - reads as the reason of a drop
    """The series takes no more records: its writer has ended."""


class SeriesState(NamedTuple):
    """Position of a series, by name, for readers outside the hot path.

    The next record is stored at `offset` of the live segment and gets `seq`; the next metric call
    gets `call`; `accepted` points were stored before.
    """

    offset: int
    seq: int
    call: int
    accepted: int


class Series:
    """One series: the live segment, the next position and the lock around both."""

    def __init__(self, folder: Path, name: str, writer: bytes, on_new: Callable[[Segment], None]):
        self.folder, self.name = folder, name
        self._writer = writer
        self._on_new = on_new
        self.segment: Segment | None = None
        # One that was replaced, until it is closed: an interrupt may come first.
        self._replaced: Segment | None = None
        self.is_closed = False
        # (offset, next seq, next call, accepted points); limit 0 sends every append to `make_room`.
        self.state = (0, 0, 0, 0)
        self.limit = 0
        # Up to here the hot path stores without asking; never beyond the limit.
        self.ahead = 0
        # An append is under way, or was interrupted: the next one has to `settle` first.
        self.is_storing = False
        self._next_size = SEGMENT_BYTES_MIN
        self.lock = SeriesLock(self)

    def position(self) -> SeriesState:
        """Return the position by name; `state` itself is the plain tuple of the hot path."""
        return SeriesState._make(self.state)

    def append(self, kind: int, payload: bytes) -> int:
        """Store one record and return its sequence number. The caller holds `lock`.

        Raises: OSError when no segment can be made, RecordTooLarge, SeriesClosed.
        """
        self.make_room(16 + padded(len(payload)))
        return self.put(kind, payload)

    def put(self, kind: int, payload: bytes, *, call: int | None = None, points: int = 0) -> int:
        """Store one record as `append`; the caller has made room for it.

        `call` and `points` are those of a metric record.
        """
        segment = self.segment
        assert segment is not None
        offset, seq, next_call, accepted = self.state
        if call is not None:
            next_call = max(next_call, call + 1)
        body = seq.to_bytes(8, "little") + payload
        self.is_storing = True
        segment.bytes[offset + 8 : offset + 8 + len(body)] = body
        segment.words[offset >> 3] = commit_word(kind, body)
        size = 8 + padded(len(body))
        self.state = (offset + size, seq + 1, next_call, accepted + points)
        segment.words[LAST_WORD] = offset
        self.is_storing = False
        return seq

    def make_room(self, size: int) -> bool:
        """Ensure that `size` bytes fit at the position; true when a new segment was opened."""
        if size > RECORD_BYTES_MAX or size + FIRST_RECORD + _END_BYTES > SEGMENT_BYTES_MAX:
            raise RecordTooLarge(f"a record of {size} bytes exceeds {SEGMENT_BYTES_MAX}")
        if self.is_closed:
            raise SeriesClosed("the run has ended, so nothing is logged any more")
        self.settle()
        if self.segment is not None and self.state[0] + size <= self.limit:
            return False
        self._roll(size)
        return True

    def look_ahead(self, size: int) -> None:
        """Let the hot path go on for some hundred records of `size` bytes, their pages present.

        The caller holds `lock` and has made room for one.
        """
        offset, segment = self.state[0], self.segment
        if segment is None or offset + size <= self.ahead:
            return
        # Less in a first segment: a writer that logs seldom leaves what it dirties empty for long.
        reach = min(AHEAD_BYTES_MAX, segment.size // 4)
        if size * AHEAD_RECORDS_MIN <= reach:
            segment.populate(offset, offset + reach)
        else:  # one call in a hundred may be slow, not more
            reach = size * AHEAD_RECORDS_MIN
        self.ahead = min(self.limit, offset + reach)

    def settle(self) -> None:
        """Deal with the bytes that interrupted appends left at the position."""
        segment = self.segment
        if segment is None:
            return
        while self.state[0] < self.limit and (word := segment.words[self.state[0] >> 3]):
            if not self._adopt(segment, word):
                # A body without its commit word, or the rest of a longer one.
                segment.words[self.state[0] >> 3] = 0
        self.is_storing = False

    def _adopt(self, segment: Segment, word: int) -> bool:
        """Step over a record that an interrupted append had committed; false if it is none."""
        offset, seq, call, accepted = self.state
        length, low = word & 0xFFFFFF, word & 0xFFFFFFFF
        body = bytes(segment.bytes[offset + 8 : offset + 8 + length])
        if (
            len(body) != length
            or body[:8] != seq.to_bytes(8, "little")
            or low >> 24 not in KINDS
            or zlib.crc32(body, low) != word >> 32
        ):
            return False
        if low >> 24 == METRIC:
            _, used, _, _, accepted, _, _ = METRIC_HEAD.unpack_from(body)
            call = max(call, used + 1)
        elif low >> 24 == WIDE:
            wide = json.loads(body[8:])
            call, accepted = max(call, wide["call"] + 1), wide["accepted"]
        segment.words[LAST_WORD] = offset
        self.state = (offset + 8 + padded(length), seq + 1, call, accepted)
        return True

    def _roll(self, size: int) -> None:
        need = FIRST_RECORD + size + _END_BYTES
        bytes_new = max(self._next_size, -(-need // 4096) * 4096)
        _, seq, call, accepted = self.state
        old = self.segment
        number = old.number + 1 if old else 1
        header = SegmentHeader(
            self._writer, number, seq, accepted, time.time_ns(), min(bytes_new, SEGMENT_BYTES_MAX)
        )
        fresh = Segment(self.folder, self.name, header)
        self._on_new(fresh)
        # Interrupted from here on, the next append opens another segment.
        self.ahead = self.limit = 0
        self._close_replaced()
        self._replaced, self.segment = old, fresh
        self.state = (FIRST_RECORD, seq, call, accepted)
        self.limit = fresh.size - _END_BYTES
        self._next_size = min(self._next_size * SEGMENT_GROWTH, SEGMENT_BYTES_MAX)
        self._close_replaced()

    def _close_replaced(self) -> None:
        if self._replaced is not None:
            self._replaced.close()
            self._replaced = None

    def next_segment_bytes(self) -> int:
        """Return the size that the next segment will have."""
        return self._next_size

    def limit_next_segment(self, size: int) -> None:
        """Make the next segment no larger than `size`; one too long record may still need more."""
        self._next_size = max(SEGMENT_BYTES_MIN, min(self._next_size, size))

    def seal(self) -> None:
        """Take no more records. The caller holds `lock`."""
        self.is_closed = True
        self.settle()
        self.ahead = self.limit = 0

    def close(self) -> None:
        """Seal, and close the live segment. The caller holds `lock`."""
        self.seal()
        self.restart()

    def restart(self) -> None:
        """Close the live segment; the next record opens the first one of a new folder."""
        self.ahead = self.limit = 0
        self._close_replaced()
        self._replaced, self.segment = self.segment, None
        self._close_replaced()
