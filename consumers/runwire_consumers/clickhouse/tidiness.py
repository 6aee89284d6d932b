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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from runwire_consumers.clickhouse.native import Array
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

    def judge(self, batches: Sequence[MetricColumns]) -> list[bool]:
        """Return whether each batch repeats a step; repeatable until `keep`."""
        self._judged = {}
        self.suspects = set()
        unknown = [batch for batch in batches if self._past(batch) is None]
        history = self._read_history(unknown) if unknown else {}
        verdicts = []
        for batch in batches:
            past = self._judged.get(batch.writer) or self._past(batch)
            if past is None or past.batch_seq != batch.batch_seq - 1:
                stored = history.get((batch.project, batch.run_id, batch.rank), {})
                past = _Past(batch.batch_seq - 1, stored)
            last_steps = _steps_after(past.last_steps, batch)
            verdicts.append(last_steps is None)
            is_news = last_steps is None and past.last_steps is not None
            if is_news or batch.writer not in self._pasts:
                self.suspects.add((batch.project, batch.run_id))
            self._judged[batch.writer] = _Past(batch.batch_seq, last_steps)
        return verdicts

    def keep(self) -> None:
        """Remember the judged batches: they are stored."""
        for writer, past in self._judged.items():
            self._pasts[writer] = past
            self._pasts.move_to_end(writer)
        self._judged = {}
        while len(self._pasts) > WRITERS_MAX:
            self._pasts.popitem(last=False)

    def _past(self, batch: MetricColumns) -> _Past | None:
        """Return the state before the batch, None when only the store knows it."""
        if batch.batch_seq == 0:
            return _Past(-1)
        past = self._pasts.get(batch.writer)
        return past if past is not None and past.batch_seq == batch.batch_seq - 1 else None


def _steps_after(last_steps: dict[str, int] | None, batch: MetricColumns) -> dict[str, int] | None:
    """Return the greatest steps after the batch; None when it repeats a step."""
    if last_steps is None or not _steps_rise(batch):
        return None
    count = len(batch.names)
    first = np.zeros(count, "i8")
    last = np.zeros(count, "i8")
    # With repeated indices numpy keeps the last assignment.
    first[batch.name_idx[::-1]] = batch.step[::-1]
    last[batch.name_idx] = batch.step
    present = np.zeros(count, bool)
    present[batch.name_idx] = True
    after = dict(last_steps)
    for index in np.flatnonzero(present).tolist():
        name = batch.names[index]
        if name in last_steps and first[index] <= last_steps[name]:
            return None
        after[name] = int(last[index])
    return after


def _steps_rise(batch: MetricColumns) -> bool:
    """Return whether the steps of each metric rise strictly within the batch."""
    rise: Array = np.diff(batch.step)
    calls: Array = np.diff(batch.seq)
    if bool(np.all(rise >= 0)) and bool(np.all(rise[calls != 0] > 0)) and bool(np.all(calls >= 0)):
        return _distinct_in_calls(batch, calls)
    order = np.argsort(batch.name_idx, kind="stable")
    step, name = batch.step[order], batch.name_idx[order]
    return not bool(np.any((np.diff(name) == 0) & (np.diff(step) <= 0)))


def _distinct_in_calls(batch: MetricColumns, calls: Array) -> bool:
    """Return whether no call has a name twice; fast when names are in index order."""
    if bool(np.all(np.diff(batch.name_idx)[calls == 0] > 0)):
        return True
    pairs = batch.seq * np.int64(len(batch.names)) + batch.name_idx
    return len(np.unique(pairs)) == len(pairs)
