"""Attempts of a run: random histories of restarts and living neighbours against plain Python."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from runwire_schemas.events import MetricBatch
from support.builders import AT_NS, checkpoint_event, heartbeat, log_event, run_event

pytestmark = pytest.mark.engine

MS = 1_000_000
SECOND = 1_000_000_000
Points = Callable[..., MetricBatch]
A1 = {"attempt": "attempt-1", "writer": "w1"}
A2 = {"attempt": "attempt-2", "writer": "w2"}
METRICS = "SELECT metric, attempt, step, is_abandoned FROM v_metrics ORDER BY metric, attempt, seq"
SERIES = "SELECT metric, step, value FROM v_series ORDER BY metric, step"


@dataclass
class Attempt:
    """One start of the run. Units: `starts_s` and `ends_s` true seconds, `clock_s` the clock's error."""

    number: int
    starts_s: int
    ends_s: int
    clock_s: int
    # (metric, rank, seq, step, true second)
    points: list[tuple[str, int, int, int, int]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"a{self.number}"


class History:
    """Attempts that follow each other or live at the same time, each metric on an axis of its own."""

    def __init__(self, rng: random.Random) -> None:
        self.ranks = rng.choice([1, 1, 2])
        self.attempts: list[Attempt] = []
        now_s = 100
        for _ in range(rng.randint(1, 4)):
            clock_s = rng.choice([0, 0, rng.randint(-5000, 5000)])
            # One to three processes at the same time: they share a machine, hence a clock.
            ends = now_s
            for beside in range(rng.choice([1, 1, 1, 2, 3])):
                starts_s = now_s + beside
                made = Attempt(len(self.attempts), starts_s, starts_s + rng.randint(5, 20), clock_s)
                self._log(rng, made)
                self.attempts.append(made)
                ends = max(ends, made.ends_s)
            now_s = ends + rng.randint(1, 5)

    def _log(self, rng: random.Random, attempt: Attempt) -> None:
        step = rng.choice([0, 0, rng.randint(0, 60)])
        for rank in range(self.ranks):
            names = rng.sample(["loss", "val/acc", "test/acc"], rng.randint(1, 3))
            for seq, at_s in enumerate(range(attempt.starts_s, attempt.ends_s + 1)):
                here = step + seq * 3 if rng.random() < 0.9 else step + rng.randint(0, 30)
                axes = {"loss": here, "val/acc": here // 10, "test/acc": 0}
                attempt.points += [(n, rank, seq, axes[n], at_s) for n in names]

    def metrics(self) -> list[tuple[str, int, int, int, int, int]]:
        """Every point with its attempt number, and whether it is abandoned."""
        found = []
        for attempt in self.attempts:
            for metric, rank, seq, step, _ in attempt.points:
                again = [
                    other_step
                    for other in self.attempts
                    if other.number > attempt.number and other.starts_s >= attempt.ends_s
                    for name, of_rank, _, other_step, _ in other.points
                    if (name, of_rank) == (metric, rank)
                ]
                is_abandoned = int(step >= min(again, default=step + 1))
                found.append((metric, rank, attempt.number + 1, seq, step, is_abandoned))
        return found

    def series(self) -> list[tuple[str, int, int, int, int]]:
        """Of each step the last written point of the earliest attempt that counts there."""
        best: dict[tuple[str, int, int], tuple[int, int]] = {}
        for metric, rank, attempt, seq, step, is_abandoned in self.metrics():
            if not is_abandoned:
                key, place = (metric, rank, step), (-attempt, seq)
                best[key] = max(best.get(key, place), place)
        return [(*key, -attempt, seq) for key, (attempt, seq) in best.items()]

    def writes(self, rng: random.Random, *, counted: bool) -> Iterator[tuple[int, list[Any]]]:
        """(true second, events) in a random order of arrival, each writer's in its own order."""
        queues = [self._events(attempt, rng, counted=counted) for attempt in self.attempts]
        while queues := [queue for queue in queues if queue]:
            yield rng.choice(queues).pop(0)

    def _events(
        self, attempt: Attempt, rng: random.Random, *, counted: bool
    ) -> list[tuple[int, list[Any]]]:
        def at_ns(true_s: int) -> int:
            return AT_NS + (true_s + attempt.clock_s) * SECOND

        who = {"attempt": attempt.name}
        counts = {"attempt_number": attempt.number + 1, "first_attempt": "a0"} if counted else {}
        start = run_event(
            writer=f"{attempt.name}-0", at_ns=at_ns(attempt.starts_s), **who, **counts
        )
        queue: list[tuple[int, list[Any]]] = [(attempt.starts_s, [start])]
        for rank in range(self.ranks):
            calls = [p for p in attempt.points if p[1] == rank]
            cut = rng.randint(1, len(calls))
            for number, part in enumerate(filter(None, (calls[:cut], calls[cut:]))):
                batch = MetricBatch(
                    project="tests", run_id="run-1", writer=f"{attempt.name}-{rank}", rank=rank,
                    batch_seq=number, **who,
                    names=["loss", "val/acc", "test/acc"],
                    call_seq=[seq for _, _, seq, _, _ in part],
                    call_step=[step for *_, step, _ in part],
                    call_at_ms=[at_ns(at_s) // MS for *_, at_s in part],
                    call_n=[1] * len(part),
                    name_idx=[["loss", "val/acc", "test/acc"].index(name) for name, *_ in part],
                    value=[float(attempt.number * 1000 + seq) for _, _, seq, _, _ in part],
                )  # fmt: skip
                queue.append((part[-1][4], [batch]))
        return queue


@pytest.mark.parametrize("round_number", range(8))
def test_attempts_match_plain_python_for_random_histories(
    feed: Any, seed: int, round_number: int
) -> None:
    """Numbers, abandoned points and curves agree over attempts x metrics x ranks x axes x clocks."""
    rng = random.Random(seed * 100 + round_number)
    history = History(rng)
    for true_s, events in history.writes(rng, counted=rng.random() < 0.5):
        feed.write(*events, append_at_ns=AT_NS + true_s * SECOND)
    found = feed.rows("SELECT metric, rank, attempt, seq, step, is_abandoned FROM v_metrics")
    assert sorted(found) == sorted(history.metrics())
    found = feed.rows("SELECT metric, rank, step, attempt, value FROM v_series")
    expected = [
        (metric, rank, step, attempt, float((attempt - 1) * 1000 + seq))
        for metric, rank, step, attempt, seq in history.series()
    ]
    assert sorted(found) == sorted(expected)
    limits = feed.rows("SELECT attempt, counts_to_step FROM v_attempts")
    for number, counts_to_step in limits:
        bad = [row[4] for row in history.metrics() if row[2] == number and row[5]]
        assert counts_to_step < min(bad, default=2**63)
