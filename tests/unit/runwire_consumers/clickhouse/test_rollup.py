"""The rollup of sorted points, against a slow reference in plain Python."""

from __future__ import annotations

import math
import random

import pytest

from runwire_consumers.clickhouse.points import sort_points
from runwire_consumers.clickhouse.rollup import roll_up
from unit.runwire_consumers.clickhouse import points_reference as reference


@pytest.mark.parametrize("number", range(60))
def test_rollup_of_sorted_points_equals_the_slow_reference(seed: int, number: int) -> None:
    """First and last step, extremes of finite values and the newest point of every series."""
    rng = random.Random(f"{seed} {number}")
    batches = reference.random_batches(rng)
    rolled = roll_up(sort_points(reference.decoded(batches, rng)))
    expected = reference.rollup_rows(batches)
    assert sorted(rolled.series) == sorted(expected)
    for i, series in enumerate(rolled.series):
        first, last, newest, extremes, values = expected[series]
        assert (rolled.first_step[i], rolled.last_step[i]) == (first, last)
        assert (rolled.place_ms[i], rolled.seq[i], rolled.at_ms[i], rolled.step[i]) == newest
        assert repr(float(rolled.value[i])) in values
        found = (float(rolled.min[i]), float(rolled.max[i]))
        assert tuple(None if math.isnan(value) else value for value in found) == extremes
