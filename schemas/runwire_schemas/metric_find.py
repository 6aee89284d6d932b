"""Places of the columns in many metric messages, found in all of them side by side.

Only the form that our encoder writes is read (each array one positive block). Where the places of
a message do not fit together it is left out, valid or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from runwire_schemas.bounds import ARRAY_ITEMS_MAX
from runwire_schemas.errors import DecodeError
from runwire_schemas.metric_columns import MetricHead
from runwire_schemas.metric_encode import ColumnType
from runwire_schemas.varint import VARINT_BYTES_MAX, read_long
from runwire_schemas.varint_arrays import Int64s, read_each, widths_at

Index: TypeAlias = npt.NDArray[Any]
PADDING: Final = bytes(2 * VARINT_BYTES_MAX)
"""Zeros behind the last message, so that no look runs over the end."""

# The columns that the messages of one writer have in common come first.
HEAD: Final = ("project", "run_id", "attempt", "writer", "rank")
LONGS: Final = ("batch_seq", "points_before")
_WRITERS_MAX: Final = 16_384
_NAME_SETS_MAX: Final = 16  # of a writer
_INDEX_OF_ONE_BYTE_MAX: Final = 64


class Places:
    """Places in the messages: of each column's first byte, its end, and its number of items.

    `names` is the number of names, `longs` the numbers behind the head.
    Shapes: all arrays [messages]; `good` is false for a message that is left out, whose places
    mean nothing.
    """

    def __init__(
        self, data: bytes, starts: Index, ends: Index, columns: Mapping[str, ColumnType]
    ) -> None:
        self._columns = columns
        self._is_thorough = False
        self.data, self.octets = data, np.frombuffer(data, np.uint8)
        self.good = np.ones(len(starts), bool)
        self.heads: list[MetricHead] = []
        self.names = np.zeros(len(starts), np.int64)
        self.longs = {name: np.full(len(starts), -1, np.int64) for name in LONGS}
        self.first: dict[str, Int64s] = {}
        self.end: dict[str, Int64s] = {}
        self.count: dict[str, Int64s] = {}
        self._at, self._ends = starts.astype(np.int64), ends.astype(np.int64)
        self._begin = self._at.tolist()

    def find(self, *, is_thorough: bool) -> None:
        """Find all places, once; with `is_thorough` no column is taken to have one width."""
        self._is_thorough = is_thorough
        find: Mapping[ColumnType, Callable[[str], None]] = {
            ColumnType.TEXT: self._text,
            ColumnType.INT: self._rank,
            ColumnType.LONG: self._long,
            ColumnType.TEXTS: self._names,
            ColumnType.LONGS: self._array,
            ColumnType.INTS: self._array,
            ColumnType.DOUBLES: self._doubles,
        }
        for name, kind in self._columns.items():
            find[kind](name)
        self.good &= self._at == self._ends

    def _read(self) -> Int64s:
        numbers, at = read_each(self.octets, self._at)
        self._move(at)
        return numbers

    def _move(self, at: Int64s) -> None:
        """Go on at these places; a message that ends before is left out."""
        self.good &= at <= self._ends
        self._at = np.minimum(at, self._ends)

    def _skip(self, sizes: Int64s) -> None:
        fits = (sizes >= 0) & (sizes <= self._ends - self._at)
        self.good &= fits
        self._move(self._at + np.where(fits, sizes, 0))

    def _text(self, _name: str) -> None:
        self._skip(self._read())

    def _rank(self, _name: str) -> None:
        self._read()

    def _long(self, name: str) -> None:
        if name == LONGS[0]:
            self._head_ends = self._at.tolist()
        self.longs[name] = self._read()

    def _names(self, _name: str) -> None:
        data, heads, after = self.data, self.heads, self._at.tolist()
        known, good = _known_heads, self.good.tolist()
        for i, (begin, end, at) in enumerate(zip(self._begin, self._head_ends, after, strict=True)):
            writer = data[begin:end]
            last = known.last.get(writer) if good[i] else _NOTHING
            if last is None or not data.startswith(last[0], at):
                try:
                    last = known.find(writer, data, at)
                except (DecodeError, UnicodeDecodeError):
                    self.good[i] = False
                    last = _NOTHING
            heads.append(last[1])
            after[i] = at + len(last[0])
        self.names = np.array([len(head.names) for head in heads], np.int64)
        self._move(np.array(after, np.int64))

    def _array(self, name: str) -> None:
        count = self._count(name)
        width = widths_at(self.octets, self._at)
        end = np.minimum(self._at + width * count, self._ends)
        # One width for a whole column is the rule. The few others are looked through.
        other = (self.octets[end] != 0) | (end == self._ends) | self._is_thorough
        if name == "name_idx":
            other |= self.names > _INDEX_OF_ONE_BYTE_MAX
        for i in np.flatnonzero(other & self.good & (count > 0)).tolist():
            longest = self._at[i] + VARINT_BYTES_MAX * count[i]
            window = self.octets[self._at[i] : min(longest, self._ends[i])]
            lasts = np.flatnonzero(window < 128)
            if len(lasts) < count[i]:
                self.good[i] = False
            else:
                end[i] = self._at[i] + lasts[count[i] - 1] + 1
        self._close(name, end)

    def _doubles(self, name: str) -> None:
        count = self._count(name, 8)
        self._close(name, self._at + 8 * count)

    def _count(self, name: str, size: int = 1) -> Int64s:
        """Read the number of items of an array, which take at least `size` bytes each."""
        count = self._read()
        fits = (count >= 0) & (count <= (self._ends - self._at) // size)
        self.good &= fits & (count <= ARRAY_ITEMS_MAX)
        self.count[name] = np.where(self.good, count, 0)
        return self.count[name]

    def _close(self, name: str, end: Int64s) -> None:
        """Step over the 0 that ends an array with items."""
        has_items = self.count[name] > 0
        self.first[name], self.end[name] = self._at, end
        self.good &= ~has_items | (self.octets[end] == 0)
        self._move(end + has_items)


_Known: TypeAlias = tuple[bytes, MetricHead]
_NOTHING: Final[_Known] = (b"", MetricHead("", "", "", "", 0, ()))


class _KnownHeads:
    """Heads by their bytes: a writer sends the same ones all day.

    Threads: any; a head may be read twice.
    """

    def __init__(self) -> None:
        self.last: dict[bytes, _Known] = {}
        self._sets: dict[bytes, dict[bytes, MetricHead]] = {}

    def find(self, writer: bytes, data: bytes, at: int) -> _Known:
        """Return the array of names at a place, and the head. Raises: DecodeError."""
        end = _end_of_names(data, at)
        names = data[at:end]
        if len(self._sets) >= _WRITERS_MAX:
            self._sets, self.last = {}, {}
        sets = self._sets.setdefault(writer, {})
        head = sets.get(names)
        if head is None:
            if len(sets) >= _NAME_SETS_MAX:
                sets.clear()
            head = sets[names] = _read_head(writer, names)
        self.last[writer] = (names, head)
        return names, head


_known_heads: Final = _KnownHeads()


def _end_of_names(data: bytes, at: int) -> int:
    count, at = read_long(data, at)
    if not 0 <= count <= min(len(data) - at, ARRAY_ITEMS_MAX):
        raise DecodeError(f"{count} names do not fit the message")
    for _ in range(count):
        size, at = read_long(data, at)
        at += size
        if size < 0 or at > len(data):
            raise DecodeError("a name does not fit the message")
    return at + 1 if count else at


def _read_head(writer: bytes, names: bytes) -> MetricHead:
    texts = list(_texts(writer, 0, len(HEAD) - 1))
    rank, _ = read_long(writer, texts[-1][1])
    if not -(1 << 31) <= rank < 1 << 31:
        raise DecodeError(f"rank {rank} does not fit 32 bits")
    count, at = read_long(names, 0)
    listed = tuple(text for text, _ in _texts(names, at, count))
    if names[-1] != 0:
        raise DecodeError("the names do not end")
    project, run_id, attempt, name = (text for text, _ in texts)
    return MetricHead(project, run_id, attempt, name, rank, listed)


def _texts(data: bytes, at: int, count: int) -> Iterable[tuple[str, int]]:
    for _ in range(count):
        size, at = read_long(data, at)
        yield data[at : at + size].decode(), at + size
        at += size
