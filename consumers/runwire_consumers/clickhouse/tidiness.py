"""Judgement of batches as tidy or untidy: only untidy writers ever repeat a step of a metric.

`v_series` thins only the curves of untidy writers: thinning a million points costs ten times as
much as reading them, and most runs log each metric once per step. The sink stores with each batch
whether it repeats a step, its own or an earlier one of its writer. After each start of a writer or
an attempt it also lets the store list the writers that `v_series` must thin. A wrong "untidy" only
costs time in a query; a wrong "tidy" would show a step twice. So where the past is unknown (another
worker read the writer, or this one was restarted) it is read from the store.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from runwire_consumers.clickhouse.books import remember
from runwire_consumers.clickhouse.native import Array
from runwire_consumers.clickhouse.points import SortedPoints
from runwire_schemas.metric_decode import MetricColumns

# Greatest step of each metric, by (project, run_id, rank).
History = dict[tuple[str, str, int], dict[str, int]]
# Run after the rows are stored: of two workers that store the first points of one run at the same
# time, the later one then sees both.
NOTE_UNTIDY = """
INSERT INTO untidy_writers (project, run_id, rank, writer)
SELECT DISTINCT project, run_id, rank, writer FROM writer_progress
WHERE (project, run_id) IN %(runs)s AND (
    untidy
    OR (project, run_id) IN (
        SELECT project, run_id FROM attempts WHERE (project, run_id) IN %(runs)s
        GROUP BY project, run_id HAVING uniqExact(attempt) > 1)
    OR (project, run_id, rank) IN (
        SELECT project, run_id, rank FROM writer_progress WHERE (project, run_id) IN %(runs)s
        GROUP BY project, run_id, rank HAVING uniqExact(writer) > 1))
"""
# Bounds the memory: about 10 KB for a writer of 50 metrics.
WRITERS_MAX = 10_000


@dataclass(slots=True)
class _Past:
    """State of a writer after one batch; `last_steps` is None once it repeated a step."""

    batch_seq: int
    last_steps: dict[str, int] | None = field(default_factory=dict)


class Tidiness:
    """Judges batches in their order, and remembers them once they are stored.

    Threads: one at a time.
    """

    def __init__(self, read_history: Callable[[Sequence[MetricColumns]], History]) -> None:
        self._read_history = read_history
        self._pasts: OrderedDict[str, _Past] = OrderedDict()
        self._judged: dict[str, _Past] = {}
        # Runs of the judged batches that may have to be thinned from now on.
        self.suspects: set[tuple[str, str]] = set()

    def judge(self, parts: Sequence[SortedPoints]) -> list[bool]:
        """Return whether each row of the parts repeats a step; repeatable until `keep`."""
        self._judged = {}
        self.suspects = set()
        groups = [_by_writer(points) for points in parts]
        unknown = [row for group in groups for own in group for row in self._unknown(own)]
        history = self._read_history(unknown) if unknown else {}
        verdicts: list[bool] = []
        for points, group in zip(parts, groups, strict=True):
            found = np.zeros(len(points.joined.rows), bool)
            for own in group:
                found[own.places] = self._judge(own, history)
            verdicts += found.tolist()
        return verdicts

    def keep(self, *, but: Collection[str] = ()) -> None:
        """Remember the judged batches, as they are stored, but those of these writers."""
        remember(self._pasts, self._judged, but=but, writers_max=WRITERS_MAX)
        self._judged = {}

    def _unknown(self, own: _WriterRows) -> Iterator[MetricColumns]:
        """Yield the rows of a writer whose past only the store knows."""
        before: int | None = None
        for row in own.rows() if own.has_gaps else (own.first,):
            if row.batch_seq - 1 != before and self._past(row) is None:
                yield row
            before = row.batch_seq

    def _past(self, row: MetricColumns) -> _Past | None:
        """Return the state before the row, None when only the store knows it."""
        if row.batch_seq == 0:
            return _Past(-1)
        past = self._pasts.get(row.writer)
        return past if past is not None and past.batch_seq == row.batch_seq - 1 else None

    def _judge(self, own: _WriterRows, history: History) -> bool | list[bool]:
        """Return the verdict on the rows of a writer: one for all of them, or one for each."""
        past = self._state_before(own.first, history)
        after = _steps_after_all(past.last_steps, own)
        if after is None:
            return [self._judge_row(row, history) for row in own.rows()]
        self._note(own.first, is_news=False)
        self._judged[own.first.writer] = _Past(own.last_seq, after)
        return False

    def _judge_row(self, row: MetricColumns, history: History) -> bool:
        past = self._state_before(row, history)
        last_steps = _steps_after(past.last_steps, row)
        self._note(row, is_news=last_steps is None and past.last_steps is not None)
        self._judged[row.writer] = _Past(row.batch_seq, last_steps)
        return last_steps is None

    def _state_before(self, row: MetricColumns, history: History) -> _Past:
        known = self._judged.get(row.writer)
        past = known or self._past(row)
        if past is not None and past.batch_seq == row.batch_seq - 1:
            return past
        stored = history.get((row.project, row.run_id, row.rank), {})
        if known is None or known.batch_seq >= row.batch_seq:
            return _Past(row.batch_seq - 1, stored)
        # Batches in between are missing (set aside): those before them are not stored yet.
        return _Past(row.batch_seq - 1, _greatest(stored, known.last_steps))

    def _note(self, row: MetricColumns, *, is_news: bool) -> None:
        if is_news or row.writer not in self._pasts:
            self.suspects.add((row.project, row.run_id))


@dataclass(slots=True)
class _WriterRows:
    """Rows of one writer: their places among all rows, and the steps of each metric.

    `steps` holds the first and the last step where all steps rise, else it is None.
    """

    all_rows: Sequence[MetricColumns]
    places: Array
    first: MetricColumns
    last_seq: int
    has_gaps: bool
    steps: dict[str, tuple[int, int]] | None = field(default_factory=dict)

    def rows(self) -> list[MetricColumns]:
        """Return the rows."""
        return [self.all_rows[place] for place in self.places.tolist()]


def _by_writer(points: SortedPoints) -> list[_WriterRows]:
    joined = points.joined
    numbers: dict[str, int] = {}
    of_head = [numbers.setdefault(head.writer, len(numbers)) for head in joined.heads]
    writer_of = np.array(of_head)[joined.head_of]
    order, counts = np.argsort(writer_of, kind="stable"), np.bincount(writer_of)
    starts = np.cumsum(counts) - counts
    seqs = joined.batch_seq[order]
    gaps = np.diff(seqs, prepend=0) != 1
    gaps[starts] = False
    has_gaps = np.logical_or.reduceat(gaps, starts)
    lasts = seqs[starts + counts - 1].tolist()
    found = []
    for number, places in enumerate(np.split(order, starts[1:])):
        first = joined.rows[places[0]]
        own = _WriterRows(joined.rows, places, first, lasts[number], bool(has_gaps[number]))
        found.append(own)
    _add_steps(found, numbers, points)
    return found


def _add_steps(found: list[_WriterRows], numbers: dict[str, int], points: SortedPoints) -> None:
    first = points.step[points.starts].tolist()
    last = points.step[points.starts + points.counts - 1].tolist()
    for index, (one, rises) in enumerate(
        zip(points.series, points.is_rising.tolist(), strict=True)
    ):
        own = found[numbers[one.writer]]
        # A writer with several runs, ranks or attempts is looked at row by row.
        if own.steps is not None and rises and one.metric not in own.steps:
            own.steps[one.metric] = (first[index], last[index])
        else:
            own.steps = None


def _steps_after_all(last_steps: dict[str, int] | None, own: _WriterRows) -> dict[str, int] | None:
    """Return the greatest steps after all rows; None when one repeats a step, or may do so."""
    if last_steps is None or own.steps is None or own.has_gaps:
        return None
    for metric, (step, _) in own.steps.items():
        if metric in last_steps and step <= last_steps[metric]:
            return None
    return last_steps | {metric: step for metric, (_, step) in own.steps.items()}


def _greatest(stored: dict[str, int], known: dict[str, int] | None) -> dict[str, int] | None:
    if known is None:
        return None
    return stored | {m: max(step, stored.get(m, step)) for m, step in known.items()}


def _steps_after(last_steps: dict[str, int] | None, row: MetricColumns) -> dict[str, int] | None:
    """Return the greatest steps after the row; None when it repeats a step."""
    if last_steps is None:
        return None
    after, names = dict(last_steps), row.head.names
    for index, step in zip(row.name_idx.tolist(), row.step.tolist(), strict=True):
        name = names[index]
        if step <= after.get(name, step - 1):
            return None
        after[name] = step
    return after
