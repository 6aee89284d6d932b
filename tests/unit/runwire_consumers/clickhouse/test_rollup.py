"""The rollup of a batch against the definition, point by point."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from runwire_consumers.clickhouse.rollup import Series, roll_up
from runwire_schemas.metric_decode import MetricColumns

Point = tuple[int, int, int, int, float]  # place_ms, seq, at_ms, step, value


def batch(rng: random.Random, writer: int) -> MetricColumns:
    """Random points of one writer: repeated steps and instants, NaN, names without a point."""
    points = rng.choice([1, 2, 50])
    values = [rng.choice([rng.gauss(0, 1), math.nan, math.inf, -math.inf]) for _ in range(points)]
    return MetricColumns(
        project="p",
        run_id=f"run-{writer % 2}",
        attempt=f"attempt-{writer % 3}",
        writer=f"w{writer}",
        rank=writer % 2,
        batch_seq=0,
        points_before=0,
        names=[f"m{i}" for i in range(6)],
        seq=np.array([rng.randrange(10) for _ in range(points)]),
        step=np.array([rng.randrange(-5, 5) for _ in range(points)]),
        at_ms=np.array([rng.randrange(3) for _ in range(points)]),
        name_idx=np.array([rng.randrange(5) for _ in range(points)], "i4"),
        value=np.array(values),
    )


def places(ats: list[int], seqs: list[int]) -> list[int]:
    """For each call the latest time of it and of all earlier calls."""
    calls = [(seq, index) for index, seq in enumerate(seqs)]
    return [
        max(at for at, other in zip(ats, calls, strict=True) if other <= call) for call in calls
    ]


def by_series(batches: list[MetricColumns]) -> dict[Series, list[Point]]:
    """The points of each series."""
    found: dict[Series, list[Point]] = {}
    for b in batches:
        ats, seqs = b.at_ms.tolist(), b.seq.tolist()
        rows = zip(ats, seqs, b.step.tolist(), b.name_idx.tolist(), b.value.tolist(), strict=True)
        for place, (at, seq, step, idx, value) in zip(places(ats, seqs), rows, strict=True):
            series = (b.project, b.run_id, b.rank, b.attempt, b.names[idx])
            found.setdefault(series, []).append((place, seq, at, step, value))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_rollup_equals_its_definition_point_by_point(seed: int) -> None:
    """First and last step, extremes of finite values and the newest point of every series."""
    rng = random.Random(seed)
    batches = [batch(rng, writer) for writer in range(rng.choice([1, 4]))]
    expected = by_series(batches)
    rolled = roll_up(batches)
    assert sorted(rolled.series) == sorted(expected)
    for i, series in enumerate(rolled.series):
        points = expected[series]
        steps = [step for *_, step, _ in points]
        assert (rolled.first_step[i], rolled.last_step[i]) == (min(steps), max(steps))
        finite = [value for *_, value in points if math.isfinite(value)]
        extremes = (min(finite), max(finite)) if finite else (math.nan, math.nan)
        assert np.array_equal((rolled.min[i], rolled.max[i]), extremes, equal_nan=True)
        newest = max(point[:4] for point in points)
        found = (rolled.place_ms[i], rolled.seq[i], rolled.at_ms[i], rolled.step[i])
        assert found == newest
        candidates = [value for *key, value in points if tuple(key) == newest]
        assert any(np.array_equal(rolled.value[i], v, equal_nan=True) for v in candidates)
