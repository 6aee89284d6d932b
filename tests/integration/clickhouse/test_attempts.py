"""Attempts of a run: random histories of restarts and living neighbours against plain Python."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from runwire_schemas.events import MetricBatch
from support.builders import (
    AT_NS,
    checkpoint_event,
    log_event,
    param_event,
    run_event,
)

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
    """One start of the run. Units: true seconds; `clock_s` is the error of its clock."""

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
    """Attempts one after the other or at the same time, each metric on an axis of its own."""

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
    """Numbers, abandoned points and curves agree, over metrics, ranks, axes and clocks."""
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


def test_curve_on_another_axis_survives_a_resume(feed: Any, points: Points) -> None:
    """Loss at the global step stays whole when the resumed attempt counts epochs elsewhere."""
    feed.write(run_event(**A1), points([(i, i, float(i)) for i in range(100)], **A1))
    feed.write(points([(i, i, 0.5) for i in range(100, 105)], name="val/acc", **A1))
    start = run_event(**A2, at_ns=AT_NS + 60 * SECOND)
    resumed = run_event(**A2, seq=1, event="updated", status=None, resumed_from_step=4)
    feed.write(start, resumed, append_at_ns=AT_NS + 60 * SECOND)
    feed.write(points([(0, 100, 100.0)], **A2), points([(1, 5, 0.6)], name="val/acc", **A2))
    assert feed.row("SELECT count(), sum(is_abandoned) FROM v_metrics WHERE metric = 'loss'") == (
        101,
        0,
    )
    assert feed.row("SELECT count() FROM v_series WHERE metric = 'loss'") == (101,)


def test_evaluation_job_that_resumes_a_finished_run_hides_nothing(
    feed: Any, points: Points
) -> None:
    """Test/acc at step 0, logged by a later attempt, leaves the training curve alone."""
    end = run_event(**A1, seq=9, event="finished", status="finished", at_ns=AT_NS + SECOND)
    feed.write(run_event(**A1), points([(i, i, float(i)) for i in range(10)], **A1), end)
    start = run_event(**A2, at_ns=AT_NS + 60 * SECOND, resumed_from_step=9)
    feed.write(start, points([(0, 0, 0.9)], name="test/acc", **A2))
    assert feed.row("SELECT count(), sum(is_abandoned) FROM v_metrics") == (11, 0)
    assert feed.row("SELECT count() FROM v_series WHERE metric = 'loss'") == (10,)


def test_second_writer_of_a_living_run_hides_nothing_and_is_shown(
    feed: Any, points: Points
) -> None:
    """The trainer that was there first keeps its curve and its status; v_runs counts the second."""
    feed.write(run_event(**A1), points([(i, i, 1.0) for i in range(5)], **A1))
    later_ns = AT_NS + 10 * SECOND
    feed.write(run_event(**A2, at_ns=later_ns), append_at_ns=later_ns)
    late = points([(0, 0, 2.0), (1, 3, 2.0)], **A2, call_at_ms=[later_ns // MS] * 2)
    done = run_event(**A2, seq=9, event="finished", status="finished", at_ns=later_ns + SECOND)
    feed.write(late, done, append_at_ns=later_ns + SECOND)
    on_ns = later_ns + 5 * SECOND
    feed.write(points([(5, 5, 1.0)], **A1, call_at_ms=[on_ns // MS]), append_at_ns=on_ns)
    assert feed.row("SELECT sum(is_abandoned) FROM v_metrics") == (0,)
    assert feed.rows(SERIES) == [("loss", step, 1.0) for step in range(6)]
    assert feed.row("SELECT status, second_writers FROM v_runs") == ("running", 1)
    assert feed.rows("SELECT attempt, is_beside FROM v_attempts ORDER BY attempt") == [
        (1, 0),
        (2, 1),
    ]


def test_clock_behind_at_a_resume_does_not_reorder_attempts(feed: Any, points: Points) -> None:
    """Param, name, latest value and curve are those of the attempt that was counted later."""
    hour_ns = 3600 * SECOND
    counts = {"first_attempt": "attempt-1"}
    old = run_event(**A1, name="old", attempt_number=1, **counts)
    new = run_event(**A2, name="new", attempt_number=2, **counts, at_ns=AT_NS - hour_ns)
    for start, value, at_ns in ((new, 2.0, AT_NS - hour_ns), (old, 1.0, AT_NS)):
        who = {"attempt": start.attempt, "writer": start.writer}
        batch = points([(0, 3, value)], call_at_ms=[at_ns // MS], **who)
        feed.write(start, param_event(value=str(value), at_ns=at_ns, **who), batch)
    assert feed.rows(METRICS) == [("loss", 1, 3, 1), ("loss", 2, 3, 0)]
    assert feed.rows(SERIES) == [("loss", 3, 2.0)]
    assert feed.row("SELECT value FROM v_latest") == (2.0,)
    assert feed.row("SELECT value FROM v_params") == ("2.0",)
    assert feed.row("SELECT name, attempt FROM v_runs") == ("new", 2)


def test_clock_that_steps_back_does_not_bring_back_older_words(feed: Any, points: Points) -> None:
    """Within a writer its own count decides: name, param, summary and latest value are the last."""
    early_ns = AT_NS - 3600 * SECOND
    feed.write(run_event(name="old", summary='{"a": 1}'), param_event(value="1"))
    feed.write(points([(0, 0, 1.0)]))
    feed.write(
        run_event(seq=2, event="updated", status=None, name="new", summary='{"a": 2}',
                  at_ns=early_ns),
        param_event(seq=3, value="2", at_ns=early_ns),
    )  # fmt: skip
    steps_back = points([(1, 1, 2.0), (2, 2, 3.0)], call_at_ms=[AT_NS // MS, early_ns // MS])
    feed.write(steps_back)
    assert feed.row("SELECT name, summary FROM v_runs") == ("new", '{"a": 2}')
    assert feed.row("SELECT value FROM v_params") == ("2",)
    assert feed.row("SELECT value FROM v_latest") == (3.0,)


def test_checkpoint_is_abandoned_from_where_a_later_attempt_went_back(feed: Any) -> None:
    """Resumed from checkpoint 20: 30 is abandoned at once; 20 when it is saved again."""
    feed.write(run_event(**A1))
    for number, step in enumerate((10, 20, 30)):
        feed.write(checkpoint_event(**A1, step=step, artifact=f"{number:032x}"))
    feed.write(run_event(**A2, at_ns=AT_NS + 60 * SECOND))
    states = "SELECT attempt, step, is_abandoned FROM v_checkpoints ORDER BY attempt, step"
    assert feed.rows(states) == [(1, 10, 0), (1, 20, 0), (1, 30, 0)]
    for resumed, expected in ((7, [0, 0, 0]), (20, [0, 0, 1])):
        event = run_event(**A2, seq=resumed, event="updated", resumed_from_step=resumed)
        feed.write(event)
        assert [row[2] for row in feed.rows(states)] == expected, resumed
    feed.write(checkpoint_event(**A2, step=20, artifact="f" * 32))
    assert feed.rows(states) == [(1, 10, 0), (1, 20, 1), (1, 30, 1), (2, 20, 0)]


def test_histograms_are_abandoned_by_name_from_where_they_come_again(feed: Any) -> None:
    """A later attempt's histogram of one layer leaves those of other layers alone."""
    text = '{"edges": [0, 1], "counts": [1]}'

    def layer(name: str, step: int, seq: int, **who: Any) -> Any:
        return log_event(stream="histogram", name=name, step=step, seq=seq, text=text, **who)

    feed.write(run_event(**A1), run_event(**A2, at_ns=AT_NS + 60 * SECOND))
    feed.write(*(layer("w0", step, step, **A1) for step in range(3)))
    feed.write(*(layer("w1", step, step + 3, **A1) for step in range(3)))
    feed.write(layer("w0", 1, 9, **A2))
    found = (
        "SELECT name, attempt, step, is_abandoned FROM v_histograms ORDER BY name, attempt, step"
    )
    assert feed.rows(found) == [
        ("w0", 1, 0, 0), ("w0", 1, 1, 1), ("w0", 1, 2, 1), ("w0", 2, 1, 0),
        ("w1", 1, 0, 0), ("w1", 1, 1, 0), ("w1", 1, 2, 0),
    ]  # fmt: skip
