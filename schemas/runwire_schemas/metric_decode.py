"""Decoder of metric batches by numpy: the columns of many messages together.

The work per message is to find its columns (`metric_find`); each column is then decoded in all
messages at once, so that a message of 20 points costs little more than its points. The fast path
accepts exactly the form that our encoder writes (the newest schemas, each array one positive
block) and leaves any other to the careful path of `codec`. A property test compares both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Final

import numpy as np
import numpy.typing as npt

from runwire_schemas import codec
from runwire_schemas.bounds import MESSAGE_BYTES_MAX
from runwire_schemas.errors import DecodeError, RunwireError
from runwire_schemas.events import MetricBatch
from runwire_schemas.metric_columns import (
    MetricArrays,
    MetricColumns,
    columns_of,
    without_empty_calls,
)
from runwire_schemas.metric_encode import COLUMNS, ColumnType, require_columns
from runwire_schemas.metric_find import HEAD, LONGS, PADDING, Index, Places
from runwire_schemas.varint_arrays import Int64s, Octets, ends_in, read_even, read_uneven

__all__ = ["MetricColumns", "decode_fast", "decode_metric_batch"]

# Columns by schema: agents of the last version send for a while after the workers' update.
FORMS: Final[Mapping[str, Mapping[str, ColumnType]]] = {
    "metric.v2": COLUMNS,
    "metric.v1": {name: kind for name, kind in COLUMNS.items() if name != "points_before"},
}
# A byte of an index costs as much as a thirtieth of a slice.
GATHERED_BYTES_MAX: Final = 32
CALLS: Final = ("call_seq", "call_step", "call_at_ms", "call_n")
require_columns((*HEAD, *LONGS, "names", *MetricArrays._fields), "MetricColumns")


def decode_metric_batch(value: bytes) -> MetricColumns:
    """Return the points of a message of a metric topic.

    Raises: DecodeError for any other bytes, and the errors of the codec's resolver.
    """
    (columns,) = decode_fast([value])
    if columns is not None:
        return columns
    event = codec.decode(value, kind="metric")
    if not isinstance(event, MetricBatch):
        raise DecodeError(f"message is a {codec.kind_of(value)} event and no metric batch")
    return columns_of(event)


def decode_fast(values: Sequence[bytes]) -> list[MetricColumns | None]:
    """Return the points of each message of the form that our encoder writes; None for any other.

    The arrays of messages that follow each other follow each other too.
    """
    rows: list[MetricColumns | None] = [None] * len(values)
    stems = _stems(values)
    for stem, columns in FORMS.items():
        for is_thorough in (False, True):
            left = [i for i, row in enumerate(rows) if row is None and stems[i] == stem]
            if left:
                found = _decode_form([values[i] for i in left], columns, is_thorough=is_thorough)
                for i, row in zip(left, found, strict=True):
                    rows[i] = row
    return rows


def _stems(values: Sequence[bytes]) -> list[str]:
    """Return the schema of each message, empty where it is not known or the message too long."""
    headers = [value[: codec.HEADER_BYTES] for value in values]
    known = {header: _stem(header) for header in set(headers)}
    stems = [known[header] for header in headers]
    if max(map(len, values), default=0) > MESSAGE_BYTES_MAX:
        stems = [
            "" if len(v) > MESSAGE_BYTES_MAX else s for v, s in zip(values, stems, strict=True)
        ]
    return stems


def _stem(header: bytes) -> str:
    try:
        return codec.stem_of(header)
    except RunwireError:  # an id that is unknown, or cannot be asked for now
        return ""


def _decode_form(
    values: list[bytes], columns: Mapping[str, ColumnType], *, is_thorough: bool
) -> list[MetricColumns | None]:
    """Return the columns of the messages whose places fit together, None for the others."""
    data = b"".join((*values, PADDING))
    sizes = np.array(list(map(len, values)), np.int64)
    ends = np.cumsum(sizes)
    places = Places(data, ends - sizes + codec.HEADER_BYTES, ends, columns)
    places.find(is_thorough=is_thorough)
    while True:
        messages = np.flatnonzero(places.good)
        try:
            rows = _decode(places, messages)
        except _Misfits as misfits:
            places.good[messages[misfits.which]] = False
        else:
            break
    found: list[MetricColumns | None] = [None] * len(values)
    for index, row in zip(messages.tolist(), rows, strict=True):
        found[index] = row
    return found


class _Misfits(Exception):  # noqa: N818 - never leaves this module
    """Messages of another form than the fast path reads, valid or not."""

    def __init__(self, which: Index) -> None:
        self.which = which


def _require(good: npt.NDArray[np.bool_]) -> None:
    """Raises: _Misfits where a message is not good."""
    if not bool(good.all()):
        raise _Misfits(np.flatnonzero(~good))


def _decode(places: Places, messages: Index) -> list[MetricColumns]:
    """Return the columns of these messages. Raises: _Misfits."""
    counts = {name: places.count[name][messages] for name in (*CALLS, "name_idx", "value")}
    calls, points = counts["call_n"], counts["value"]
    good = counts["name_idx"] == points
    for name in CALLS:
        good &= counts[name] == calls
    _require(good)
    call_columns = [_longs(places, messages, name) for name in CALLS]
    call_n, name_idx = call_columns[-1], _longs(places, messages, "name_idx")
    # Each is at most `points` before they are added, so that the sum cannot overflow.
    _require_range(call_n, points + 1, calls)
    _require(_sums(call_n, calls) == points)
    heads = [places.heads[index] for index in messages.tolist()]
    _require_range(name_idx, places.names[messages], points)
    value = _joined(places, messages, "value").view("<f8")
    arrays = MetricArrays._make((*call_columns, name_idx.astype(np.int32), value))
    if len(call_n) and call_n.min() == 0:
        calls = _sums((call_n > 0).astype(np.int64), calls)
        arrays = without_empty_calls(arrays)
    longs = [places.longs[name][messages].tolist() for name in LONGS]
    bounds = (*_bounds(calls), *_bounds(points))
    # What `MetricColumns._make` does, without a call in Python for each message.
    make = partial(tuple.__new__, MetricColumns)
    return list(map(make, zip(heads, *longs, repeat(arrays), *bounds, strict=False)))


def _joined(places: Places, messages: Index, name: str) -> Octets:
    """Return the bytes of a column of all messages."""
    first, end = places.first[name][messages], places.end[name][messages]
    sizes = end - first
    total = int(sizes.sum())
    if total > GATHERED_BYTES_MAX * len(messages):
        data, bounds = places.data, zip(first.tolist(), end.tolist(), strict=True)
        return np.frombuffer(b"".join([data[begin:until] for begin, until in bounds]), np.uint8)
    offset = first - np.cumsum(sizes) + sizes
    gathered: Octets = places.octets[np.repeat(offset, sizes) + np.arange(total)]
    return gathered


def _longs(places: Places, messages: Index, name: str) -> Int64s:
    """Return the integers of a column of all messages. Raises: _Misfits."""
    count = places.count[name][messages]
    sizes = np.where(count > 0, places.end[name][messages] - places.first[name][messages], 0)
    octets = _joined(places, messages, name)
    total = int(count.sum())
    if total == 0:
        return np.empty(0, np.int64)
    width = len(octets) // total
    if bool((sizes == width * count).all()):
        numbers = read_even(octets, width)
        if numbers is not None:
            return numbers
    lasts, until = ends_in(octets), np.cumsum(sizes)
    good = np.diff(np.searchsorted(lasts, until), prepend=0) == count
    _require(good & ((count == 0) | (octets[until - 1] < 128)))
    numbers, wrong = read_uneven(octets, lasts)
    if len(wrong):
        raise _Misfits(np.unique(np.searchsorted(np.cumsum(count), wrong, side="right")))
    return numbers


def _require_range(numbers: Int64s, end: Int64s, counts: Int64s) -> None:
    """Compare each number with the range [0, end) of its message. Raises: _Misfits.

    Shapes: end and counts [messages], numbers [sum of counts].
    """
    if not len(numbers) or (numbers.min() >= 0 and numbers.max() < end[counts > 0].min()):
        return
    wrong = np.flatnonzero((numbers < 0) | (numbers >= np.repeat(end, counts)))
    if len(wrong):
        raise _Misfits(np.unique(np.searchsorted(np.cumsum(counts), wrong, side="right")))


def _sums(numbers: Int64s, counts: Int64s) -> Int64s:
    """Return the sum of each message's numbers. Shapes: counts, result [messages]."""
    sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(numbers)))
    until = np.cumsum(counts)
    result: Int64s = sums[until] - sums[until - counts]
    return result


def _bounds(counts: Int64s) -> tuple[list[int], list[int]]:
    """Return the first and the end of each message's items in the arrays of all."""
    ends = np.cumsum(counts)
    return (ends - counts).tolist(), ends.tolist()
