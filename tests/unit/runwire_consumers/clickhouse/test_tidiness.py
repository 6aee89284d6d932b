"""Judgement of repeated steps from sorted points, against a slow reference in plain Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from runwire_consumers.clickhouse.points import sort_points
from runwire_consumers.clickhouse.tidiness import History, Tidiness
from runwire_schemas import codec
from runwire_schemas.metric_decode import MetricColumns, decode_metric_batch
from unit.runwire_consumers.clickhouse import points_reference as reference


@pytest.mark.parametrize("number", range(60))
def test_verdicts_of_sorted_points_equal_the_slow_reference(seed: int, number: int) -> None:
    """A batch that repeats a step is untidy, and so is all that its writer sends from there on."""
    rng = random.Random(f"{seed} {number}")
    batches = reference.random_batches(rng)
    expected = reference.untidy(batches)
    judge, found = Tidiness(lambda _: {}), list[bool]()
    rows = reference.decoded(batches, rng)
    while rows:
        part, rows = rows[:5], rows[5:]
        found += judge.judge([sort_points(some) for some in (part[:2], part[2:]) if some])
        judge.keep()
    assert found == expected


def test_history_is_read_for_writers_with_an_unknown_past_alone() -> None:
    """Batches that follow one that is known, in the store or in the same round, ask nothing."""
    asked: list[list[int]] = []

    def history(rows: Sequence[MetricColumns]) -> History:
        asked.append([row.batch_seq for row in rows])
        return {}

    judge = Tidiness(history)
    (batch,) = reference.random_batches(random.Random(3))[:1]
    for numbers in ((0, 1, 2), (3, 4), (6, 7), (8,)):
        rows = [decode_metric_batch(codec.encode(replace(batch, batch_seq=n))) for n in numbers]
        judge.judge([sort_points(rows)])
        judge.keep()
    assert asked == [[6]]


def test_steps_before_a_gap_of_the_same_round_count() -> None:
    """Batches that were set aside in between hide no repetition of what is not stored yet."""
    (batch,) = reference.random_batches(random.Random(3))[:1]
    rows = [decode_metric_batch(codec.encode(replace(batch, batch_seq=n))) for n in (0, 2)]
    assert Tidiness(lambda _: {}).judge([sort_points(rows)])[1]
