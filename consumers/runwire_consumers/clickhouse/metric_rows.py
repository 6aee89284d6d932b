"""Native blocks of the tables of points, and of those that sum them up.

`metric_rollup`, `writer_progress` and `attempts` get rows that the worker aggregates itself:
materialized views would more than double the time of an insert. A replay changes none of the
aggregates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from runwire_consumers.clickhouse import native
from runwire_consumers.clickhouse.books import Whole
from runwire_consumers.clickhouse.native import Array, Block, Column
from runwire_consumers.clickhouse.points import JoinedRows, MetricSeries, SortedPoints
from runwire_consumers.clickhouse.rollup import roll_up
from runwire_consumers.clickhouse.rows import (
    K,
    attempt_key,
    dictionary,
    instants,
    writer_key,
)


def metric_rows(points: SortedPoints) -> Block:
    """Build the block for `metrics`: one row per point, in the order of the table."""
    order = points.table_order

    def constant(
        encode: Callable[[list[K], Array], Column], of: Callable[[MetricSeries], K]
    ) -> Column:
        """Encode what all points of a series have in common."""
        keys, index = dictionary([of(one) for one in points.series])
        spread = np.repeat(index.astype(native.position_type(len(keys))), points.counts)
        return encode(keys, spread if order is None else spread[order])

    def text(name: str, of: Callable[[MetricSeries], str]) -> Column:
        return constant(lambda keys, index: native.low_cardinality(name, keys, index), of)

    def number(name: str, kind: str, of: Callable[[MetricSeries], int]) -> Column:
        return constant(lambda keys, index: native.number_dictionary(name, kind, keys, index), of)

    def numbers(name: str, kind: str, values: Array) -> Column:
        return native.numbers(name, kind, values if order is None else values[order])

    return native.block_in_pieces(
        [
            text("project", lambda one: one.project),
            text("run_id", lambda one: one.run_id),
            text("metric", lambda one: one.metric),
            number("rank", "Int32", lambda one: one.rank),
            number("attempt", "UInt64", lambda one: attempt_key(one.attempt)),
            number("writer", "UInt64", lambda one: writer_key(one.writer)),
            numbers("step", "Int64", points.step),
            numbers("seq", "Int64", points.seq),
            numbers("at", "DateTime64(3)", points.at_ms),
            numbers("value", "Float64", points.value),
        ]
    )


def batch_rows(joined: JoinedRows, append_at_ns: int, *, untidy: Sequence[bool]) -> bytes:
    """Build the block for `batches`: one row per metric batch.

    Shapes: untidy [rows], true where a batch repeats a step.
    """
    first, calls, heads, of = joined.first_calls, joined.arrays, joined.heads, joined.head_of

    def least(name: str, kind: str, values: Array) -> Column:
        return native.numbers(name, kind, np.minimum.reduceat(values, first))

    def greatest(name: str, kind: str, values: Array) -> Column:
        return native.numbers(name, kind, np.maximum.reduceat(values, first))

    def text(name: str, values: list[str]) -> Column:
        keys, index = dictionary(values)
        return native.low_cardinality(name, keys, index[of])

    def number(name: str, kind: str, values: list[int]) -> Column:
        keys, index = dictionary(values)
        return native.number_dictionary(name, kind, keys, index[of])

    return native.block(
        [
            text("project", [head.project for head in heads]),
            text("run_id", [head.run_id for head in heads]),
            number("rank", "Int32", [head.rank for head in heads]),
            number("attempt", "UInt64", [attempt_key(head.attempt) for head in heads]),
            number("writer", "UInt64", [writer_key(head.writer) for head in heads]),
            native.numbers("batch_seq", "Int64", joined.batch_seq),
            native.numbers("points", "UInt64", joined.row_points),
            least("first_seq", "Int64", calls.call_seq),
            greatest("last_seq", "Int64", calls.call_seq),
            least("first_step", "Int64", calls.call_step),
            greatest("last_step", "Int64", calls.call_step),
            least("first_at", "DateTime64(3)", joined.at_ms),
            greatest("last_at", "DateTime64(3)", joined.at_ms),
            native.numbers("untidy", "Bool", untidy),
            native.numbers(
                "append_at", "DateTime64(3)", np.full(len(of), append_at_ns // 1_000_000)
            ),
        ]
    )


def progress_rows(
    joined: JoinedRows, append_at_ns: int, *, untidy: Sequence[bool], whole: Sequence[Whole]
) -> bytes:
    """Build the block for `writer_progress`: one row per writer of the batches.

    Shapes: untidy and whole [rows], as for `batch_rows` and from `Books.follow`.
    """
    first = joined.first_calls
    writers, of_head = dictionary(
        [(one.project, one.run_id, one.rank, one.attempt, one.writer) for one in joined.heads]
    )
    writer = of_head[joined.head_of]
    projects, runs, ranks, attempts, names = zip(*writers, strict=True)
    last_step = np.maximum.reduceat(joined.arrays.call_step, first)
    last_at = np.maximum.reduceat(joined.at_ms, first)
    batches, points = zip(*whole, strict=True)

    def greatest(name: str, kind: str, values: Array | Sequence[int]) -> Column:
        return native.numbers(name, kind, _greatest(writer, values))

    return native.block(
        [
            native.strings("project", projects),
            native.strings("run_id", runs),
            native.numbers("rank", "Int64", ranks),
            native.numbers("attempt", "UInt64", [attempt_key(name) for name in attempts]),
            native.numbers("writer", "UInt64", [writer_key(name) for name in names]),
            greatest("last_step", "Int64", last_step),
            greatest("last_at", "DateTime64(3)", last_at),
            greatest("untidy", "UInt8", untidy),
            instants("append_at", [append_at_ns] * len(writers)),
            native.tuples(
                "whole",
                [greatest("batches", "Int64", batches), greatest("points", "Int64", points)],
            ),
            greatest("last_batch_seq", "Int64", joined.batch_seq),
        ]
    )


def attempt_rows(joined: JoinedRows, append_at_ns: int) -> bytes:
    """Build the block for `attempts`: one row per attempt of the batches."""
    first = joined.first_calls
    found, of_head = dictionary([(one.project, one.run_id, one.attempt) for one in joined.heads])
    attempt = of_head[joined.head_of]
    projects, runs, names = zip(*found, strict=True)
    steps = joined.arrays.call_step
    first_step = -np.minimum.reduceat(steps, first) - 1  # no overflow of the least step
    first_at = -np.minimum.reduceat(joined.at_ms, first)
    last_step = np.maximum.reduceat(steps, first)
    last_at = np.maximum.reduceat(joined.at_ms, first)
    heard = [append_at_ns] * len(found)
    return native.block(
        [
            native.strings("project", projects),
            native.strings("run_id", runs),
            native.numbers("attempt", "UInt64", [attempt_key(name) for name in names]),
            native.numbers("first_at", "DateTime64(3)", -_greatest(attempt, first_at)),
            native.numbers("first_step", "Int64", -_greatest(attempt, first_step) - 1),
            native.numbers("last_step", "Int64", _greatest(attempt, last_step)),
            instants("heard_at", heard),
            instants("heard_to", heard),
            native.numbers("active_to", "DateTime64(3)", _greatest(attempt, last_at)),
        ]
    )


def _greatest(group: Array, values: Array | Sequence[int]) -> Array:
    """Return the greatest value of each group, which all have one.

    Shapes: group and values [items], the result [groups].
    """
    greatest = np.full(int(group.max()) + 1, np.iinfo("i8").min)
    np.maximum.at(greatest, group, np.array(values, "i8"))
    return greatest


def rollup_rows(points: SortedPoints, append_at_ns: int) -> bytes:
    """Build the block for `metric_rollup`: one row per series of the batches."""
    rolled = roll_up(points)
    projects, runs, names, ranks, attempts = zip(*rolled.series, strict=True)
    newest = [
        instants("append_at", [append_at_ns] * len(rolled.series)),
        native.numbers("place_at", "DateTime64(3)", rolled.place_ms),
        native.numbers("seq", "Int64", rolled.seq),
        native.numbers("at", "DateTime64(3)", rolled.at_ms),
        native.numbers("step", "Int64", rolled.step),
        native.numbers("value", "Float64", rolled.value),
    ]
    return native.block(
        [
            native.strings("project", projects),
            native.strings("run_id", runs),
            native.strings("metric", names),
            native.numbers("rank", "Int64", ranks),
            native.numbers("attempt", "UInt64", [attempt_key(name) for name in attempts]),
            native.numbers("first_step", "Int64", rolled.first_step),
            native.numbers("last_step", "Int64", rolled.last_step),
            native.tuples("newest", newest),
            native.nullable_floats("min", rolled.min),
            native.nullable_floats("max", rolled.max),
        ]
    )
