"""Detection of repeated steps: random histories against a model in Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from runwire_consumers.clickhouse.points import sort_points
from runwire_consumers.clickhouse.sink import ClickHouseSink
from runwire_consumers.clickhouse.tidiness import History, Tidiness
from runwire_consumers.core.clock import Deadline
from runwire_schemas.events import MetricBatch
from runwire_schemas.metric_columns import MetricColumns, columns_of
from support.builders import AT_NS, run_event

NAMES = ["a", "b", "c"]
# One log call: its step and the names it logs.
Call = tuple[int, list[str]]


def batch_of(calls: Sequence[Call], *, first_seq: int, number: int, **who: Any) -> MetricBatch:
    fields: dict[str, Any] = {
        "project": "tests",
        "run_id": "run-1",
        "attempt": "attempt-1",
        "writer": "w",
        "rank": 0,
        "batch_seq": number,
        "names": NAMES,
        "call_seq": [first_seq + i for i in range(len(calls))],
        "call_step": [step for step, _ in calls],
        "call_at_ms": [AT_NS // 1_000_000 + first_seq + i for i in range(len(calls))],
        "call_n": [len(names) for _, names in calls],
        "name_idx": [NAMES.index(name) for _, names in calls for name in names],
        "value": [float(first_seq + i) for i, (_, names) in enumerate(calls) for _ in names],
    }
    return MetricBatch(**{**fields, **who})


def random_calls(rng: random.Random, start: int) -> list[Call]:
    """Mostly one or two calls per step, as people log; sometimes a step back or again."""
    calls, step = [], start
    for _ in range(rng.randint(1, 6)):
        step += rng.choice([0, 1, 1, 1, 2]) if rng.random() < 0.9 else rng.randint(-3, 0)
        calls.append((step, rng.sample(NAMES, rng.randint(1, 3))))
    return calls


def test_tidiness_never_misses_a_repeated_step(seed: int) -> None:
    """A batch is called tidy only if no (metric, step) of it or of earlier ones comes twice."""
    rng = random.Random(seed)
    both = {True: 0, False: 0}
    for _ in range(400):
        stored: dict[str, int] = {}

        def history(batches: Sequence[MetricColumns], stored: dict[str, int] = stored) -> History:
            return {(b.project, b.run_id, b.rank): dict(stored) for b in batches}

        judge, seen, first_seq = Tidiness(history), set(), 0
        step, is_untidy = 0, False
        for number in range(5):
            if rng.random() < 0.2:
                judge = Tidiness(history)  # a restart: the past comes from the store
            calls = random_calls(rng, step)
            pairs = [(name, at) for at, names in calls for name in names]
            repeats = len(set(pairs)) < len(pairs) or bool(seen & set(pairs))
            batch = batch_of(calls, first_seq=first_seq, number=number)
            points = sort_points([columns_of(batch)])
            (verdict,) = judge.judge([points])
            assert judge.judge([points]) == [verdict]
            judge.keep()
            is_untidy = is_untidy or verdict
            assert is_untidy or not repeats, (calls, sorted(seen))
            both[verdict] += 1
            seen |= set(pairs)
            first_seq, step = first_seq + len(calls), calls[-1][0] + 1
            for name, at in pairs:
                stored[name] = max(stored.get(name, at), at)
    assert min(both.values()) > 200, both


def test_rising_steps_are_tidy_when_calls_share_a_step() -> None:
    """Two calls per step with different metrics, cut in the middle of a step, are tidy."""
    calls: list[Call] = [(step, [name]) for step in range(10) for name in ("a", "b")]
    judge = Tidiness(lambda _: {})
    verdicts = []
    for number, start in enumerate(range(0, 20, 3)):
        part = batch_of(calls[start : start + 3], first_seq=start, number=number)
        verdicts += judge.judge([sort_points([columns_of(part)])])
        judge.keep()
    assert not any(verdicts)


class Model:
    """What v_series should say, by the rules in words."""

    def __init__(self) -> None:
        self.points: list[tuple[int, str, int, int, int]] = []

    def add(self, attempt: int, rank: int, first_seq: int, calls: Sequence[Call]) -> None:
        for seq, (step, names) in enumerate(calls, first_seq):
            self.points += [(attempt, name, rank, step, seq) for name in names]

    def series(self) -> set[tuple[str, int, int, float]]:
        """Of what no later attempt logged again from there on, the last written."""
        first: dict[tuple[int, str, int], int] = {}
        for attempt, name, rank, step, _ in self.points:
            first[attempt, name, rank] = min(first.get((attempt, name, rank), step), step)
        kept: dict[tuple[str, int, int], int] = {}
        for attempt, name, rank, step, seq in self.points:
            limits = [
                s for (later, *key), s in first.items() if later > attempt and key == [name, rank]
            ]
            if all(step < limit for limit in limits):
                kept[name, rank, step] = max(kept.get((name, rank, step), 0), seq)
        return {(*key, float(seq)) for key, seq in kept.items()}


@pytest.mark.engine
@pytest.mark.parametrize("round_number", range(4))
def test_v_series_equals_the_model_for_random_histories(
    feed: Any, seed: int, round_number: int
) -> None:
    """The view agrees with the model over random ranks, attempts, resumes and worker restarts."""
    rng, model = random.Random(seed + round_number), Model()
    for attempt in range(1, rng.choice([1, 1, 2, 3]) + 1):
        name = f"a{attempt}"
        resumed = rng.choice([None, rng.randint(0, 12)]) if attempt > 1 else None
        at_ns = AT_NS + attempt * 1_000_000_000
        start = run_event(attempt=name, writer=f"w{attempt}", at_ns=at_ns)
        feed.write(replace(start, resumed_from_step=resumed))
        for rank in range(rng.choice([1, 2])):
            who = {"attempt": name, "writer": f"w{attempt}-{rank}", "rank": rank}
            step, first_seq = (resumed or 0) + 1, 0
            for number in range(rng.randint(0, 4)):
                if rng.random() < 0.3:
                    feed.sink.close(Deadline(1))
                    feed.sink = ClickHouseSink(feed.url)
                calls = random_calls(rng, step)
                feed.write(batch_of(calls, first_seq=first_seq, number=number, **who))
                model.add(attempt, rank, first_seq, calls)
                first_seq, step = first_seq + len(calls), calls[-1][0] + 1
    found = feed.rows("SELECT metric, rank, step, value FROM v_series")
    assert sorted(found) == sorted(model.series())
    assert feed.row("SELECT count() FROM v_metrics") == (len(model.points),)
