"""Writer of one series of segments.

`state` is one tuple on purpose: an asynchronous exception (Ctrl-C) between two bytecodes leaves
either the old or the new position, never half of it. If it strikes between the commit store and
the new state, the word at the position is non-zero and the next append adopts that record.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runwire_disk.spool.format import (
    LAST_WORD,
    METRIC,
    METRIC_HEAD,
    RECORD_BYTES_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    SEGMENT_GROWTH,
    SegmentHeader,
    SpoolError,
    commit_word,
    padded,
)
from runwire_disk.spool.segment import FIRST_RECORD, Segment

# Room for the zero word that ends a segment and for the head of the record that does not fit.
_END_BYTES = 16


class RecordTooLarge(SpoolError, ValueError):  # noqa: N818 - reads as the reason of a drop
    """A record does not fit any segment."""


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
        self.lock = threading.Lock()
        self.segment: Segment | None = None
        # (offset, next seq, next call, accepted points); limit 0 sends every append to `make_room`.
        self.state = (0, 0, 0, 0)
        self.limit = 0
        self._next_size = SEGMENT_BYTES_MIN

    def position(self) -> SeriesState:
        """Return the position by name; `state` itself is the plain tuple of the hot path."""
        return SeriesState._make(self.state)

    def append(self, kind: int, payload: bytes) -> int:
        """Store one record and return its sequence number. The caller holds `lock`.

        Raises: OSError when no segment can be made, RecordTooLarge.
        """
        size = 16 + padded(len(payload))
        self.make_room(size)
        segment = self.segment
        assert segment is not None
        offset, seq, call, accepted = self.state
        body = seq.to_bytes(8, "little") + payload
        segment.bytes[offset + 8 : offset + 8 + len(body)] = body
        segment.words[offset >> 3] = commit_word(kind, body)
        self.state = (offset + size, seq + 1, call, accepted)
        segment.words[LAST_WORD] = offset
        return seq

    def make_room(self, size: int) -> bool:
        """Ensure that `size` bytes fit at the position; true when a new segment was opened."""
        if size > RECORD_BYTES_MAX or size + FIRST_RECORD + _END_BYTES > SEGMENT_BYTES_MAX:
            raise RecordTooLarge(f"a record of {size} bytes exceeds {SEGMENT_BYTES_MAX}")
        segment = self.segment
        if segment is not None:
            while self.state[0] < self.limit and segment.words[self.state[0] >> 3]:
                self._adopt(segment)
            if self.state[0] + size <= self.limit:
                return False
        self._roll(size)
        return True

    def _adopt(self, segment: Segment) -> None:
        """Step over a record that an interrupted append had already committed."""
        offset, seq, call, accepted = self.state
        word = segment.words[offset >> 3]
        if word >> 24 & 0xFF == METRIC:
            _, used, _, _, accepted, _, _ = METRIC_HEAD.unpack_from(segment.bytes, offset + 8)
            call = max(call, used + 1)
        segment.words[LAST_WORD] = offset
        self.state = (offset + 8 + padded(word & 0xFFFFFF), seq + 1, call, accepted)

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
        self.segment = fresh
        self.state = (FIRST_RECORD, seq, call, accepted)
        self.limit = fresh.size - _END_BYTES
        self._next_size = min(self._next_size * SEGMENT_GROWTH, SEGMENT_BYTES_MAX)
        if old is not None:
            old.close()

    def next_segment_bytes(self) -> int:
        """Return the size that the next segment will have."""
        return self._next_size

    def limit_next_segment(self, size: int) -> None:
        """Make the next segment no larger than `size`; one too long record may still need more."""
        self._next_size = max(SEGMENT_BYTES_MIN, min(self._next_size, size))

    def close(self) -> None:
        """Close the live segment; nothing can be appended afterwards."""
        self.limit = 0
        if self.segment is not None:
            self.segment.close()
            self.segment = None
