"""Points of a batch, sorted once by the key of `metrics`.

The engine sorts a block that is not in the order of its table, at half the cost of the insert; and
the rollup and the judgement of repeated steps need the same order. So the worker sorts, by numbers:
each series (a metric of a writer) gets its place in the order of names, which for nearly all
batches leaves one radix sort of 16-bit numbers. The order of rows in a block is free: a batch is
deduplicated by its token, and `core/pieces.py` cuts it by places in the order of records.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from runwire_consumers.clickhouse import native
from runwire_consumers.clickhouse.native import Array
from runwire_consumers.clickhouse.rows import writer_key
from runwire_schemas.metric_columns import MetricArrays, MetricColumns, MetricHead

# 2262-04-11, where nanoseconds in 64 bits end; DateTime64(3) itself ends in 2299.
_MS_MAX = (2**63 - 1) // 1_000_000


class MetricSeries(NamedTuple):
    """A metric of a writer. The order of these tuples begins with that of the table's key."""

    project: str
    run_id: str
    metric: str
    rank: int
    attempt: str
    writer: str


@dataclass(frozen=True, slots=True)
class JoinedRows:
    """Metric batches with their calls and points one after the other.

    Shapes: head_of, batch_seq, row_calls, row_points [rows], `head_of` being positions in `heads`;
    at_ms [calls], which is `call_at_ms` as clients can read it.
    """

    rows: Sequence[MetricColumns]
    heads: list[MetricHead]
    head_of: Array
    batch_seq: Array
    row_calls: Array
    row_points: Array
    arrays: MetricArrays
    at_ms: Array

    @property
    def first_calls(self) -> Array:
        """The first call of each row."""
        first: Array = np.cumsum(self.row_calls) - self.row_calls
        return first

    def of(self, rows: Sequence[MetricColumns]) -> JoinedRows:
        """Return these rows joined: itself when they are its own."""
        own = self.rows
        is_own = len(rows) == len(own) and all(map(operator.is_, rows, own))
        return self if is_own else join_rows(rows)


@dataclass(frozen=True, slots=True)
class SortedPoints:
    """The points of some metric batches by series, those of each series in the order of records.

    Shapes: starts, counts, is_rising [series]; step, seq, at_ms, place_ms, value [points].
    `is_rising` says where every step is greater than the one before. `place_ms` is the time of the
    call, or of an earlier call of its batch where the clock stepped back in between. `table_order`
    sorts the points by the table's key, None where they are sorted.
    """

    joined: JoinedRows
    series: list[MetricSeries]
    starts: Array
    counts: Array
    is_rising: Array
    step: Array
    seq: Array
    at_ms: Array
    place_ms: Array
    value: Array
    table_order: Array | None

    def of(self, rows: Sequence[MetricColumns]) -> SortedPoints:
        """Return the sorted points of these rows: itself when they are its own."""
        joined = self.joined.of(rows)
        return self if joined is self.joined else _sort(joined)


def join_rows(rows: Sequence[MetricColumns]) -> JoinedRows:
    """Join the arrays of metric batches, each with at least one point."""
    parts = _parts(rows)
    calls = (
        np.concatenate([arrays[k][first:end] for arrays, (first, end), _ in parts])
        for k in range(4)
    )
    points = (
        np.concatenate([arrays[k][first:end] for arrays, _, (first, end) in parts]) for k in (4, 5)
    )
    arrays = MetricArrays(*calls, *points)
    heads, seqs, _, _, first_calls, end_calls, first_points, end_points = zip(*rows, strict=True)
    ids = list(map(id, heads))
    distinct = dict(zip(ids, heads, strict=True))
    number = {key: place for place, key in enumerate(distinct)}
    return JoinedRows(
        rows=rows,
        heads=list(distinct.values()),
        head_of=np.array([number[key] for key in ids]),
        batch_seq=np.array(seqs),
        row_calls=np.array(end_calls) - np.array(first_calls),
        row_points=np.array(end_points) - np.array(first_points),
        arrays=arrays,
        at_ms=readable_ms(arrays.call_at_ms),
    )


def sort_points(rows: Sequence[MetricColumns]) -> SortedPoints:
    """Sort the points of metric batches, each with at least one."""
    return _sort(join_rows(rows))


def _sort(joined: JoinedRows) -> SortedPoints:
    arrays = joined.arrays
    series, number = _number(joined)
    counts = np.bincount(number, minlength=len(series))
    if not counts.all():
        series = [one for one, count in zip(series, counts.tolist(), strict=True) if count]
        counts = counts[counts > 0]
    starts = np.cumsum(counts) - counts
    order = np.argsort(number, kind="stable")
    # Small numbers are gathered twice as fast, and large ones index three times as fast.
    calls = np.repeat(np.arange(len(arrays.call_n), dtype="i4"), arrays.call_n)
    call = calls.take(order).astype("i8")
    step, seq = arrays.call_step.take(call), arrays.call_seq.take(call)
    at_ms = joined.at_ms.take(call)
    places = _places(joined)
    is_rising = _rising(step, starts)
    return SortedPoints(
        joined=joined,
        series=series,
        starts=starts,
        counts=counts,
        is_rising=is_rising,
        step=step,
        seq=seq,
        at_ms=at_ms,
        place_ms=at_ms if places is joined.at_ms else places.take(call),
        value=arrays.value.take(order),
        table_order=_table_order(series, counts, is_rising, (step, seq)),
    )


def readable_ms(at_ms: Array) -> Array:
    """Return times that clients of ClickHouse can read.

    A time beyond the range is in a smaller unit (a producer that sends nanoseconds for
    milliseconds); one point with it would fail every query of the run, and every list of runs.
    """
    while bool(np.any(at_ms > _MS_MAX)):
        at_ms = np.where(at_ms > _MS_MAX, at_ms // 1000, at_ms)
    return at_ms if bool(np.all(at_ms >= 0)) else np.maximum(at_ms, 0)


def _parts(
    rows: Sequence[MetricColumns],
) -> list[tuple[MetricArrays, tuple[int, int], tuple[int, int]]]:
    """Return the arrays of the rows with their calls and points; neighbours become one part."""
    parts: list[tuple[MetricArrays, tuple[int, int], tuple[int, int]]] = []
    begin_call = begin_point = until_call = until_point = -1
    last: MetricArrays | None = None
    for _, _, _, arrays, first_call, end_call, first_point, end_point in rows:
        if arrays is not last or first_call != until_call or first_point != until_point:
            if last is not None:
                parts.append((last, (begin_call, until_call), (begin_point, until_point)))
            last, begin_call, begin_point = arrays, first_call, first_point
        until_call, until_point = end_call, end_point
    if last is not None:
        parts.append((last, (begin_call, until_call), (begin_point, until_point)))
    return parts


def _number(joined: JoinedRows) -> tuple[list[MetricSeries], Array]:
    """Return the series in their order, and the number of each point's series."""
    places: dict[MetricSeries, int] = {}
    bases: list[int] = []
    flat: list[int] = []
    for head in joined.heads:
        bases.append(len(flat))
        flat += [places.setdefault(one, len(places)) for one in _series_of(head)]
    ordered = sorted(places)
    # numpy sorts numbers of 8 and 16 bits by radix, ten times as fast as larger ones.
    rank = np.empty(len(ordered), native.position_type(len(ordered)))
    rank[[places[one] for one in ordered]] = np.arange(len(ordered))
    base = np.array(bases)[joined.head_of]
    index = np.repeat(base, joined.row_points) + joined.arrays.name_idx
    number: Array = rank[np.array(flat)].take(index)
    return ordered, number


def _series_of(head: MetricHead) -> Iterator[MetricSeries]:
    for name in head.names:
        yield MetricSeries(head.project, head.run_id, name, head.rank, head.attempt, head.writer)


def _places(joined: JoinedRows) -> Array:
    """Return the times of the calls, each at least that of every earlier call of its batch."""
    at_ms, seq, first = joined.at_ms, joined.arrays.call_seq, joined.first_calls
    falls = (np.diff(at_ms) < 0) | (np.diff(seq) < 0)
    falls[first[1:] - 1] = False
    if not bool(falls.any()):
        return at_ms
    places = at_ms.copy()
    rows = np.unique(np.searchsorted(first, np.flatnonzero(falls), side="right") - 1)
    for begin, calls in zip(first[rows].tolist(), joined.row_calls[rows].tolist(), strict=True):
        part = slice(begin, begin + calls)
        order = np.argsort(seq[part], kind="stable")
        places[part][order] = np.maximum.accumulate(at_ms[part][order])
    return places


def _rising(step: Array, starts: Array) -> Array:
    """Return which series have strictly rising steps. Shapes: step [points], result [series]."""
    rises = step[1:] > step[:-1]
    rises[starts[1:] - 1] = True
    is_rising = np.ones(len(starts), bool)
    if not bool(rises.all()):
        is_rising[np.searchsorted(starts, np.flatnonzero(~rises), side="right") - 1] = False
    return is_rising


def _table_order(
    series: Sequence[MetricSeries],
    counts: Array,
    is_rising: Array,
    steps_and_seqs: tuple[Array, Array],
) -> Array | None:
    """Return the order of the table's key where it is another one.

    Only steps that do not rise, and several writers of one metric and rank, have to be sorted.
    """
    step, seq = steps_and_seqs
    keys = [one[:4] for one in series]
    same = np.array([left == right for left, right in pairwise(keys)], bool)
    unsure = ~is_rising
    unsure[1:] |= same
    unsure[:-1] |= same
    if not bool(unsure.any()):
        return None
    points = np.flatnonzero(np.repeat(unsure, counts))
    group = np.repeat(np.cumsum(np.concatenate(([True], ~same))), counts)[points]
    writers = np.array([writer_key(one.writer) for one in series], "u8")
    writer = np.repeat(writers, counts)[points]
    order = np.arange(len(step))
    order[points] = points[np.lexsort((seq[points], writer, step[points], group))]
    return order
