"""Decoder of metric batches by numpy, about twice as fast as the lists of fastavro.

The fast path accepts exactly the form that our encoder writes (the schema in force, each array one
positive block) and leaves any other to the careful path of `codec`. A property test compares both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runwire_schemas import codec
from runwire_schemas.bounds import ARRAY_ITEMS_MAX, MESSAGE_BYTES_MAX
from runwire_schemas.errors import DecodeError, RunwireError
from runwire_schemas.events import MetricBatch
from runwire_schemas.metric_encode import COLUMNS, ColumnType, require_columns
from runwire_schemas.varint import VARINT_BYTES_MAX, read_long

_DTYPES: Final = {
    ColumnType.LONGS: np.int64,
    ColumnType.INTS: np.int64,
    ColumnType.DOUBLES: np.float64,
}
_Int64s = npt.NDArray[np.int64]
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MetricColumns:
    """One metric batch with one item per point.

    Shapes: seq, step, at_ms int64[points], name_idx int32[points], value float64[points].
    The arrays may be read-only views of the message.
    """

    project: str
    run_id: str
    attempt: str
    writer: str
    rank: int
    batch_seq: int
    points_before: int
    names: list[str]
    seq: _Int64s
    step: _Int64s
    at_ms: _Int64s
    name_idx: npt.NDArray[np.int32]
    value: npt.NDArray[np.float64]

    @property
    def points(self) -> int:
        """Return the number of points."""
        return len(self.value)

    @property
    def first_seq(self) -> int:
        """Return the least call number, 0 without points."""
        return int(self.seq.min()) if len(self.seq) else 0

    @property
    def last_seq(self) -> int:
        """Return the greatest call number, -1 without points."""
        return int(self.seq.max()) if len(self.seq) else -1


# `_expand` turns columns of calls into columns of points; call_n says how often to repeat.
_POINT_COLUMNS: Final = {"call_seq": "seq", "call_step": "step", "call_at_ms": "at_ms"}
_FIELDS: Final = [field.name for field in fields(MetricColumns)]
require_columns(
    (n for n in COLUMNS if n == "call_n" or _POINT_COLUMNS.get(n, n) in _FIELDS), "MetricColumns"
)


class _Unexpected(Exception):  # noqa: N818 - never leaves this module
    """Bytes of another form than the fast path reads, valid or not."""


def decode_metric_batch(value: bytes) -> MetricColumns:
    """Return the points of a message of a metric topic.

    Raises: DecodeError for any other bytes, and the errors of the codec's resolver.
    """
    with contextlib.suppress(RunwireError):  # an id that is unknown, or cannot be asked for now
        columns = decode_fast(value)
        if columns is not None:
            return columns
    event = codec.decode(value, kind="metric")
    if not isinstance(event, MetricBatch):
        raise DecodeError(f"message is a {codec.kind_of(value)} event and no metric batch")
    return columns_of(event)


def decode_fast(value: bytes) -> MetricColumns | None:
    """Return the points of a message of the form that our encoder writes; None for any other.

    Raises: DecodeError when its header is unknown, and what codec's resolver raises.
    """
    if not codec.is_current(value, "metric") or len(value) > MESSAGE_BYTES_MAX:
        return None
    try:
        return _decode_body(value)
    except (_Unexpected, DecodeError, UnicodeDecodeError):
        return None


def columns_of(batch: MetricBatch) -> MetricColumns:
    """Return a decoded batch as columns."""
    columns: dict[str, Any] = {name: getattr(batch, name) for name in COLUMNS}
    for name, kind in COLUMNS.items():
        if kind in _DTYPES:
            columns[name] = np.array(columns[name], _DTYPES[kind])
    return _expand(**columns)


def _decode_body(data: bytes) -> MetricColumns:
    at = codec.HEADER_BYTES
    octets = np.frombuffer(data, np.uint8)
    columns: dict[str, Any] = {}
    for name, read in _READERS:
        columns[name], at = read(data, octets, at)
    if at != len(data) or not -(1 << 31) <= columns["rank"] < 1 << 31:
        raise _Unexpected
    call_n, name_idx, points = columns["call_n"], columns["name_idx"], len(columns["value"])
    if len({len(columns[name]) for name in _CALL_COLUMNS}) != 1 or len(name_idx) != points:
        raise _Unexpected
    # Each is at most `points` before they are added, so that the sum cannot overflow.
    if len(call_n) and (call_n.min() < 0 or call_n.max() > points):
        raise _Unexpected
    if int(call_n.sum()) != points:
        raise _Unexpected
    if points and (name_idx.min() < 0 or name_idx.max() >= len(columns["names"])):
        raise _Unexpected
    return _expand(**columns)


def _expand(
    *,
    call_seq: _Int64s,
    call_step: _Int64s,
    call_at_ms: _Int64s,
    call_n: _Int64s,
    name_idx: _Int64s,
    **others: Any,
) -> MetricColumns:
    """Repeat the columns of calls for their points.

    Shapes: call_* int64[calls], name_idx int64[points]; the others are kept as they are.
    """
    return MetricColumns(
        seq=np.repeat(call_seq, call_n),
        step=np.repeat(call_step, call_n),
        at_ms=np.repeat(call_at_ms, call_n),
        name_idx=name_idx.astype(np.int32),
        **others,
    )


def _text_column(data: bytes, _octets: npt.NDArray[np.uint8], at: int) -> tuple[str, int]:
    return _text(data, at)


def _long_column(data: bytes, _octets: npt.NDArray[np.uint8], at: int) -> tuple[int, int]:
    return read_long(data, at)


def _text(data: bytes, at: int) -> tuple[str, int]:
    size, at = read_long(data, at)
    end = at + size
    if size < 0 or end > len(data):
        raise _Unexpected
    return data[at:end].decode(), end


def _texts(data: bytes, _octets: npt.NDArray[np.uint8], at: int) -> tuple[list[str], int]:
    count, at = read_long(data, at)
    if not 0 <= count <= min(len(data) - at, ARRAY_ITEMS_MAX):
        raise _Unexpected
    names = []
    for _ in range(count):
        name, at = _text(data, at)
        names.append(name)
    return names, at if count == 0 else _end(data, at)


def _end(data: bytes, at: int) -> int:
    """Step over the 0 that ends an array."""
    if at >= len(data) or data[at] != 0:
        raise _Unexpected
    return at + 1


def _doubles(
    data: bytes, _octets: npt.NDArray[np.uint8], at: int
) -> tuple[npt.NDArray[np.float64], int]:
    count, at = read_long(data, at)
    if count == 0:
        return np.empty(0, np.float64), at
    if not 0 < count <= (len(data) - at) // 8:
        raise _Unexpected
    return np.frombuffer(data, "<f8", count, at), _end(data, at + 8 * count)


def _longs(data: bytes, octets: npt.NDArray[np.uint8], at: int) -> tuple[_Int64s, int]:
    count, at = read_long(data, at)
    if count == 0:
        return _NONE, at
    if not 0 < count <= min(len(data) - at, ARRAY_ITEMS_MAX):
        raise _Unexpected
    width = 1
    while at + width < len(data) and data[at + width - 1] > 127 and width < VARINT_BYTES_MAX:
        width += 1
    # Columns of one width are the rule: indexes, counts, times, most sequence numbers.
    raw = _even(octets[at : at + width * count], count, width)
    used = width * count
    if raw is None:
        raw, used = _uneven(octets[at : at + VARINT_BYTES_MAX * count], count)
    # Undo zigzag; 0 - 1 wraps to all ones, as the formula needs.
    numbers = (raw >> np.uint64(1)) ^ (np.uint64(0) - (raw & np.uint64(1)))
    return numbers.view(np.int64), _end(data, at + used)


def _even(window: npt.NDArray[np.uint8], count: int, width: int) -> npt.NDArray[np.uint64] | None:
    """Return `count` varints of `width` bytes each, None when they are not of that width."""
    if len(window) < width * count or width == VARINT_BYTES_MAX:
        return None
    if width == 1:
        return window.astype(np.uint64) if window.max() < 128 else None
    rows = window.reshape(count, width)
    if rows[:, -1].max() > 127 or rows[:, :-1].min() < 128:
        return None
    groups = (rows & np.uint8(127)).astype(np.uint64)
    raw = groups[:, 0]
    for k in range(1, width):
        raw = raw | groups[:, k] << np.uint64(7 * k)
    return raw


def _uneven(window: npt.NDArray[np.uint8], count: int) -> tuple[npt.NDArray[np.uint64], int]:
    """Return `count` varints from the start of `window` and the bytes they take."""
    ends = np.flatnonzero(window < 128)[:count]
    if len(ends) < count:
        raise _Unexpected
    starts = np.empty_like(ends)
    starts[0] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    lengths = ends - starts + 1
    longest, shortest = int(lengths.max()), int(lengths.min())
    if longest > VARINT_BYTES_MAX:
        raise _Unexpected
    if longest == VARINT_BYTES_MAX and window[ends[lengths == longest]].max() > 1:
        raise _Unexpected  # more than 64 bits
    raw = np.zeros(count, np.uint64)
    for k in range(longest):
        if k < shortest:
            raw |= (window[starts + k] & np.uint8(127)).astype(np.uint64) << np.uint64(7 * k)
        else:
            longer = np.flatnonzero(lengths > k)
            group = (window[starts[longer] + k] & np.uint8(127)).astype(np.uint64)
            raw[longer] |= group << np.uint64(7 * k)
    return raw, int(ends[-1]) + 1


_READER_OF: Final[Mapping[ColumnType, Callable[..., tuple[Any, int]]]] = {
    ColumnType.TEXT: _text_column,
    ColumnType.INT: _long_column,
    ColumnType.LONG: _long_column,
    ColumnType.TEXTS: _texts,
    ColumnType.LONGS: _longs,
    ColumnType.INTS: _longs,
    ColumnType.DOUBLES: _doubles,
}
_READERS: Final = [(name, _READER_OF[kind]) for name, kind in COLUMNS.items()]
_CALL_COLUMNS: Final = [name for name in COLUMNS if name.startswith("call_")]
