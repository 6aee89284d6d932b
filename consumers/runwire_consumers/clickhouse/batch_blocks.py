"""Blocks of one batch for every table, built from nothing but its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from runwire_consumers.clickhouse import rows as rows_of
from runwire_consumers.clickhouse.blocks import PlacedRow, TablePiece, TableRows
from runwire_consumers.clickhouse.books import Whole
from runwire_consumers.clickhouse.metric_rows import (
    attempt_rows,
    batch_rows,
    metric_rows,
    progress_rows,
    rollup_rows,
)
from runwire_consumers.clickhouse.native import Block
from runwire_consumers.clickhouse.points import SortedPoints, sort_points
from runwire_consumers.clickhouse.refusals import DEAD_LETTER
from runwire_consumers.clickhouse.rows import EVENT_TABLES
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.errors import Rejection, RowsRejected
from runwire_schemas.events import Event
from runwire_schemas.metric_decode import MetricColumns

# The tables that say which points are stored, in their order.
BOOK_TABLES = ("batches", "writer_progress", "attempts")
# A metric batch, whether it repeats a step, and what is whole of its writer once it is stored.
_Judged = tuple[MetricColumns, bool, Whole]


class _OfRun(Protocol):
    @property
    def project(self) -> str: ...
    @property
    def run_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class BatchBlocks:
    """The pieces of each table but BOOK_TABLES, whose rows need the history of their writers.

    `metrics` are the metric batches of runs that are not in `deleted` and `points` their points,
    None where there are none; `left_out` counts the rows of those that are, by kind ("metric"
    counts points).
    """

    tables: dict[str, list[TablePiece]]
    metrics: list[PlacedRow]
    points: SortedPoints | None
    left_out: Counter[str]
    deleted: Collection[tuple[str, str]]


def build_blocks(batch: Batch, deleted: Collection[tuple[str, str]]) -> BatchBlocks:
    """Build the blocks of a batch, without the rows of deleted runs.

    Raises: RowsRejected.
    Threads: any.
    """
    alive = _Alive(deleted)
    rejected: list[Rejection] = []
    tables: dict[str, list[TablePiece]] = {}
    for kind, events in batch.events.items():
        if kind not in EVENT_TABLES and kind != DEAD_LETTER:
            reason = f"this version has no table for {kind} records"
            rejected += [Rejection(kind, index, reason) for index in range(len(events))]
    for kind, (table, build) in EVENT_TABLES.items():
        events = batch.events.get(kind, [])
        encode = partial(_encode_events, build, batch.append_at_ns)
        rows = TableRows(kind, table, alive.of(kind, batch, events), encode)
        try:
            tables[table] = rows.pieces(batch.pieces)
        except (ValueError, OverflowError):
            rejected += _unencodable(kind, events, build)
    if rejected:
        raise RowsRejected(rejected)
    metrics = [item for item in alive.of("metric", batch, batch.metrics) if item.size]
    points = sort_points([item.row for item in metrics]) if metrics else None
    roll_up = partial(_encode_rollup, points, batch.append_at_ns)
    # One table of both: a second block would carry the same token and be dropped. Letters of
    # rejected rows are last, so that no other letter changes its place.
    letters = [*batch.events.get(DEAD_LETTER, ()), *batch.dead]
    placed = [PlacedRow(place, place, letter) for place, letter in enumerate(letters)]
    for rows in (
        TableRows("metric", "metric_rollup", metrics, roll_up),
        TableRows("metric", "metrics", metrics, partial(_encode_points, points)),
        TableRows(DEAD_LETTER, "dead_letters", placed, rows_of.dead_rows),
    ):
        tables[rows.table] = rows.pieces(batch.pieces)
    return BatchBlocks(tables, metrics, points, alive.left_out, deleted)


def build_books(
    batch: Batch, blocks: BatchBlocks, untidy: Sequence[bool], whole: Sequence[Whole]
) -> dict[str, list[TablePiece]]:
    """Build the blocks for BOOK_TABLES, to be sent once the points are stored.

    Shapes: untidy and whole [blocks.metrics], from `Tidiness.judge` and `Books.follow`.
    """
    if blocks.points is None:
        return {table: [] for table in BOOK_TABLES}
    judged = [
        PlacedRow(item.place, item.index, (item.row, flag, known))
        for item, flag, known in zip(blocks.metrics, untidy, whole, strict=True)
    ]
    encoders = (_encode_batches, _encode_progress, _encode_attempts)
    tables: dict[str, list[TablePiece]] = {}
    for table, encode in zip(BOOK_TABLES, encoders, strict=True):
        rows = TableRows(
            "metric", table, judged, partial(encode, blocks.points, batch.append_at_ns)
        )
        tables[table] = rows.pieces(batch.pieces)
    return tables


class _Alive:
    """Places the rows of a batch and leaves out those of deleted runs, which it counts."""

    def __init__(self, deleted: Collection[tuple[str, str]]) -> None:
        self._deleted = deleted
        self.left_out: Counter[str] = Counter()

    def of(self, kind: str, batch: Batch, rows: Sequence[_OfRun]) -> list[PlacedRow]:
        kept = []
        deleted = self._deleted
        for index, (place, row) in enumerate(zip(batch.places_of(kind), rows, strict=True)):
            if deleted and (row.project, row.run_id) in deleted:
                self.left_out[kind] += getattr(row, "points", 1)
            else:
                size = row.points if isinstance(row, MetricColumns) else 1
                kept.append(PlacedRow(place, index, row, size))
        return kept


def _encode_events(
    build: Callable[[Any, int], bytes], append_at_ns: int, events: Sequence[Any]
) -> bytes:
    return build(events, append_at_ns)


def _encode_points(points: SortedPoints | None, rows: Sequence[MetricColumns]) -> Block:
    return metric_rows(_sorted(points, rows))


def _encode_rollup(
    points: SortedPoints | None, append_at_ns: int, rows: Sequence[MetricColumns]
) -> bytes:
    return rollup_rows(_sorted(points, rows), append_at_ns)


def _sorted(points: SortedPoints | None, rows: Sequence[MetricColumns]) -> SortedPoints:
    """Return the sorted points of the rows, which for a piece are not those of the batch."""
    return sort_points(rows) if points is None else points.of(rows)


def _encode_batches(points: SortedPoints, append_at_ns: int, judged: Sequence[_Judged]) -> bytes:
    rows, untidy, _ = zip(*judged, strict=True)
    return batch_rows(points.joined.of(rows), append_at_ns, untidy=untidy)


def _encode_progress(points: SortedPoints, append_at_ns: int, judged: Sequence[_Judged]) -> bytes:
    rows, untidy, whole = zip(*judged, strict=True)
    return progress_rows(points.joined.of(rows), append_at_ns, untidy=untidy, whole=whole)


def _encode_attempts(points: SortedPoints, append_at_ns: int, judged: Sequence[_Judged]) -> bytes:
    rows, _, _ = zip(*judged, strict=True)
    return attempt_rows(points.joined.of(rows), append_at_ns)


def _unencodable(
    kind: str, events: Sequence[Event], build: Callable[[Any, int], bytes]
) -> list[Rejection]:
    """Return the events that no block can hold: invalid Unicode, numbers beyond 64 bits."""
    rejected = []
    for index, event in enumerate(events):
        try:
            build([event], 0)
        except (ValueError, OverflowError) as error:
            rejected.append(Rejection(kind, index, str(error)))
    return rejected
