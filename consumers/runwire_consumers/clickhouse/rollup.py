"""Rollup of the points of a batch: one row per series, of aggregates that no replay changes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from runwire_consumers.clickhouse.native import Array
from runwire_consumers.clickhouse.points import SortedPoints

# Project, run id, metric name, rank and attempt.
RollupKey = tuple[str, str, str, int, str]


@dataclass(frozen=True, slots=True)
class Rollup:
    """Aggregates of the points of each series.

    Shapes: all arrays [series]. `min` and `max` are of finite values, NaN where there is none.
    The newest point has the greatest (place_ms, seq, at_ms, step, value); `place_ms` is the time of
    the call, or of an earlier call of its writer where the clock stepped back in between.
    """

    series: list[RollupKey]
    first_step: Array
    last_step: Array
    place_ms: Array
    at_ms: Array
    seq: Array
    step: Array
    value: Array
    min: Array
    max: Array


def roll_up(points: SortedPoints) -> Rollup:
    """Aggregate sorted points by series; the writers of one attempt and rank share theirs."""
    keys: list[RollupKey] = [one[:5] for one in points.series]
    is_first = np.array([True, *(left != right for left, right in pairwise(keys))])
    starts = points.starts[is_first]
    ends = np.append(starts[1:], len(points.step))
    value, step = points.value, points.step
    if bool(is_first.all()) and bool(points.is_rising.all()):
        first_step, last_step = step[starts], step[ends - 1]
        newest = _last_if_newest(points, starts, ends)
    else:
        first_step, last_step = np.minimum.reduceat(step, starts), np.maximum.reduceat(step, starts)
        newest = _newest(points, starts)
    least, greatest = _extremes(value, starts)
    return Rollup(
        series=[key for key, is_new in zip(keys, is_first.tolist(), strict=True) if is_new],
        first_step=first_step,
        last_step=last_step,
        place_ms=points.place_ms[newest],
        at_ms=points.at_ms[newest],
        seq=points.seq[newest],
        step=step[newest],
        value=value[newest],
        min=least,
        max=greatest,
    )


def _extremes(value: Array, starts: Array) -> tuple[Array, Array]:
    """Return the least and the greatest finite value of each series, NaN where it has none."""
    finite = np.isfinite(value)
    if bool(finite.all()):
        return np.minimum.reduceat(value, starts), np.maximum.reduceat(value, starts)
    least = np.minimum.reduceat(np.where(finite, value, np.inf), starts)
    greatest = np.maximum.reduceat(np.where(finite, value, -np.inf), starts)
    empty = ~np.logical_or.reduceat(finite, starts)
    return np.where(empty, np.nan, least), np.where(empty, np.nan, greatest)


def _last_if_newest(points: SortedPoints, starts: Array, ends: Array) -> Array:
    """Return the place of the newest point of each series, the last one where times rise."""
    place_ms, seq = points.place_ms, points.seq
    rises = (place_ms[1:] >= place_ms[:-1]) & (seq[1:] > seq[:-1])
    rises[starts[1:] - 1] = True
    last: Array = ends - 1
    return last if bool(rises.all()) else _newest(points, starts)


def _newest(points: SortedPoints, starts: Array) -> Array:
    """Return the place of the newest point of each series; only points of its last instant sort."""
    keys = (points.place_ms, points.seq, points.at_ms, points.step, points.value)
    place_ms = points.place_ms
    lengths = np.diff(starts, append=len(place_ms))
    group = np.repeat(np.arange(len(starts)), lengths)
    latest = np.flatnonzero(place_ms == np.repeat(np.maximum.reduceat(place_ms, starts), lengths))
    ranked = latest[np.lexsort([key[latest] for key in (*reversed(keys), group)])]
    ends = np.flatnonzero(np.diff(group[ranked], append=-1))
    newest: Array = ranked[ends]
    return newest
