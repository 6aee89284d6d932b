"""What a batch adds to `metric_rollup`: one row per series instead of one per point.

A materialized view would do the same inside ClickHouse and more than double the time of an insert
(0.55 s instead of 0.25 s for a million points); here it costs about 0.05 s. Every aggregate is one
that a replay cannot change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runwire_consumers.clickhouse.native import Array
from runwire_schemas.metric_decode import MetricColumns

# Project, run id, rank, attempt and metric name.
Series = tuple[str, str, int, str, str]


@dataclass(frozen=True, slots=True)
class Rollup:
    """Aggregates of the points of each series.

    Shapes: all arrays [series]. `min` and `max` are of finite values, NaN where there is none.
    The newest point has the greatest (at_ms, seq, step, value).
    """

    series: list[Series]
    first_step: Array
    last_step: Array
    at_ms: Array
    seq: Array
    step: Array
    value: Array
    min: Array
    max: Array


def roll_up(batches: Sequence[MetricColumns]) -> Rollup:
    """Aggregate the points of the batches, which hold at least one, by series."""
    places: dict[Series, int] = {}
    group = np.concatenate([_groups(places, batch) for batch in batches])
    # A radix sort where the numbers of the series fit 16 bits.
    order = np.argsort(group.astype("u2") if len(places) < 1 << 16 else group, kind="stable")
    group = group[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    step, seq, at_ms, value = (
        np.concatenate([getattr(batch, field) for batch in batches])[order]
        for field in ("step", "seq", "at_ms", "value")
    )
    finite = np.isfinite(value)
    least = np.minimum.reduceat(np.where(finite, value, np.inf), starts)
    greatest = np.maximum.reduceat(np.where(finite, value, -np.inf), starts)
    empty = ~np.logical_or.reduceat(finite, starts)
    last = _newest(group, starts, (at_ms, seq, step, value))
    series = list(places)
    return Rollup(
        series=[series[number] for number in group[starts].tolist()],
        first_step=np.minimum.reduceat(step, starts),
        last_step=np.maximum.reduceat(step, starts),
        at_ms=at_ms[last],
        seq=seq[last],
        step=step[last],
        value=value[last],
        min=np.where(empty, np.nan, least),
        max=np.where(empty, np.nan, greatest),
    )


def _groups(places: dict[Series, int], batch: MetricColumns) -> Array:
    """The number of the series of each point; new series get the next ones."""
    who = (batch.project, batch.run_id, batch.rank, batch.attempt)
    numbers = [places.setdefault((*who, name), len(places)) for name in batch.names]
    return np.array(numbers, "i8")[batch.name_idx]


def _newest(group: Array, starts: Array, keys: tuple[Array, ...]) -> Array:
    """Where the greatest point of each group is; only those of the last instant are sorted."""
    at_ms = keys[0]
    lengths = np.diff(starts, append=len(group))
    latest = np.flatnonzero(at_ms == np.repeat(np.maximum.reduceat(at_ms, starts), lengths))
    ranked = latest[np.lexsort([key[latest] for key in (*reversed(keys), group)])]
    ends = np.flatnonzero(np.diff(group[ranked], append=-1))
    found: Array = ranked[ends]
    return found
