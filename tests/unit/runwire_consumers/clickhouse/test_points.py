"""Points of a batch in the order of their table, against a slow reference in plain Python."""

from __future__ import annotations

import random

import numpy as np
import pytest

from runwire_consumers.clickhouse.points import SortedPoints, sort_points
from unit.runwire_consumers.clickhouse import points_reference as reference
from unit.runwire_consumers.clickhouse.points_reference import Point


def table_rows(points: SortedPoints) -> list[Point]:
    """The rows of `metrics` in the order in which they are sent."""
    order = np.arange(len(points.step)) if points.table_order is None else points.table_order
    series = np.repeat(np.arange(len(points.series)), points.counts)[order].tolist()
    columns = (points.step, points.seq, points.at_ms, points.value)
    rows = zip(series, *(column[order].tolist() for column in columns), strict=True)
    found = []
    for number, step, seq, at_ms, value in rows:
        one = points.series[number]
        writer = reference.writer_key(one.writer)
        key = (one.project, one.run_id, one.metric, one.rank, step, writer, seq)
        found.append(Point(*key, one.attempt, at_ms, value))
    return found


def shown(points: list[Point]) -> list[str]:
    """Points as text, in which NaN equals itself."""
    return [repr(point) for point in points]


@pytest.mark.parametrize("number", range(60))
def test_sorted_points_equal_the_slow_reference(seed: int, number: int) -> None:
    """Each point once, in the order of the table's key; equal keys stay in record order."""
    rng = random.Random(f"{seed} {number}")
    batches = reference.random_batches(rng)
    points = sort_points(reference.decoded(batches, rng))
    assert shown(table_rows(points)) == shown(reference.metric_rows(batches))
