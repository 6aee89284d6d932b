"""Rollup of the points of a batch: one row per series, of aggregates that no replay changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runwire_consumers.clickhouse.native import Array
from runwire_schemas.metric_decode import MetricColumns

# 2262-04-11, where nanoseconds in 64 bits end; DateTime64(3) itself ends in 2299.
_MS_MAX = (2**63 - 1) // 1_000_000

# Project, run id, rank, attempt and metric name.
Series = tuple[str, str, int, str, str]


@dataclass(frozen=True, slots=True)
class Rollup:
    """Aggregates of the points of each series.

    Shapes: all arrays [series]. `min` and `max` are of finite values, NaN where there is none.
    The newest point has the greatest (place_ms, seq, at_ms, step, value); `place_ms` is the time of
    the call, or of an earlier call of its writer where the clock stepped back in between.
    """

    series: list[Series]
    first_step: Array
    last_step: Array
    place_ms: Array
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
    step, seq, value = (
        np.concatenate([getattr(batch, field) for batch in batches])[order]
        for field in ("step", "seq", "value")
    )
    at_ms = np.concatenate([readable_ms(batch) for batch in batches])[order]
    place_ms = np.concatenate([_rising(batch) for batch in batches])[order]
    finite = np.isfinite(value)
    least = np.minimum.reduceat(np.where(finite, value, np.inf), starts)
    greatest = np.maximum.reduceat(np.where(finite, value, -np.inf), starts)
    empty = ~np.logical_or.reduceat(finite, starts)
    last = _newest(group, starts, (place_ms, seq, at_ms, step, value))
    series = list(places)
    return Rollup(
        series=[series[number] for number in group[starts].tolist()],
        first_step=np.minimum.reduceat(step, starts),
        last_step=np.maximum.reduceat(step, starts),
        place_ms=place_ms[last],
        at_ms=at_ms[last],
        seq=seq[last],
        step=step[last],
        value=value[last],
        min=np.where(empty, np.nan, least),
        max=np.where(empty, np.nan, greatest),
    )


def _groups(places: dict[Series, int], batch: MetricColumns) -> Array:
    """Return the series number of each point; new series get the next numbers."""
    run = (batch.project, batch.run_id, batch.rank, batch.attempt)
    numbers = [places.setdefault((*run, name), len(places)) for name in batch.names]
    return np.array(numbers, "i8")[batch.name_idx]


def _rising(batch: MetricColumns) -> Array:
    """Return the times of the points, each at least that of every earlier call of the batch."""
    at_ms = readable_ms(batch)
    if bool(np.all(np.diff(at_ms) >= 0)) and bool(np.all(np.diff(batch.seq) >= 0)):
        return at_ms
    order = np.argsort(batch.seq, kind="stable")
    rising = np.empty_like(at_ms)
    rising[order] = np.maximum.accumulate(at_ms[order])
    return rising


def _newest(group: Array, starts: Array, keys: tuple[Array, ...]) -> Array:
    """Return the place of the newest point of each group; only points of its last instant sort."""
    place_ms = keys[0]
    lengths = np.diff(starts, append=len(group))
    latest = np.flatnonzero(place_ms == np.repeat(np.maximum.reduceat(place_ms, starts), lengths))
    ranked = latest[np.lexsort([key[latest] for key in (*reversed(keys), group)])]
    ends = np.flatnonzero(np.diff(group[ranked], append=-1))
    newest: Array = ranked[ends]
    return newest


def readable_ms(batch: MetricColumns) -> Array:
    """Return the times of a batch's points, all of which clients of ClickHouse can read.

    A time beyond the range is in a smaller unit (a producer that sends nanoseconds for
    milliseconds); one point with it would fail every query of the run, and every list of runs.
    """
    at_ms = batch.at_ms
    while bool(np.any(at_ms > _MS_MAX)):
        at_ms = np.where(at_ms > _MS_MAX, at_ms // 1000, at_ms)
    return at_ms if bool(np.all(at_ms >= 0)) else np.maximum(at_ms, 0)
