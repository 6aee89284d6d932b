"""v_metrics, v_series, v_latest on inputs small enough to check by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from runwire_schemas.events import MetricBatch, RunEvent
from support.builders import run_event

pytestmark = pytest.mark.engine

Points = Callable[..., MetricBatch]
Attempts = tuple[RunEvent, RunEvent]
A1 = {"attempt": "attempt-1", "writer": "w1"}
A2 = {"attempt": "attempt-2", "writer": "w2"}
METRICS = "SELECT attempt, step, value, is_abandoned FROM v_metrics ORDER BY attempt, seq"
SERIES = "SELECT step, value FROM v_series ORDER BY metric, rank, step"


def test_repeated_step_keeps_all_points_and_one_series_value(feed: Any, points: Points) -> None:
    """Every point of a repeated step is kept; the series shows the last written of them."""
    feed.write(points([(0, 1, 1.0), (1, 2, 2.0), (2, 1, 3.0), (3, 1, 4.0)]))
    assert feed.row("SELECT count(), sum(value) FROM v_metrics") == (4, 10.0)
    assert feed.rows(SERIES) == [(1, 4.0), (2, 2.0)]


def test_last_written_point_of_a_step_wins_across_batches(feed: Any, points: Points) -> None:
    """The last written wins, in whatever order the batches arrive and however often."""
    later, earlier = points([(5, 7, 2.0)]), points([(4, 7, 1.0), (3, 6, 0.5)])
    for token, batch in {"w:1": later, "w:2": earlier, "w:3": later}.items():
        feed.write(batch, token=token)
    assert feed.row("SELECT count() FROM v_metrics") == (3,)
    assert feed.rows(SERIES) == [(6, 0.5), (7, 2.0)]


def test_points_of_two_ranks_never_overwrite_each_other(feed: Any, points: Points) -> None:
    """The same metric, step and seq of two ranks are two points, two series, two latest."""
    for rank in (0, 1):
        feed.write(points([(0, 1, float(rank))], rank=rank, writer=f"w{rank}"))
    assert feed.rows("SELECT rank, value FROM v_metrics ORDER BY rank") == [(0, 0.0), (1, 1.0)]
    assert feed.rows("SELECT rank, step, value FROM v_series ORDER BY rank") == [
        (0, 1, 0.0),
        (1, 1, 1.0),
    ]
    assert feed.rows("SELECT rank, value FROM v_latest ORDER BY rank") == [(0, 0.0), (1, 1.0)]


def test_points_of_one_run_id_in_two_projects_stay_apart(feed: Any, points: Points) -> None:
    """Two projects may use one run id; their points are not mixed."""
    for project in ("a", "b"):
        feed.write(points([(0, 1, 1.0)], project=project), run_event(project=project, name=project))
    assert feed.rows("SELECT project, name FROM v_runs ORDER BY project") == [
        ("a", "a"),
        ("b", "b"),
    ]
    assert feed.rows("SELECT project, value FROM v_series ORDER BY project") == [
        ("a", 1.0),
        ("b", 1.0),
    ]


def test_resumed_attempt_abandons_points_after_its_resume_step(
    feed: Any, points: Points, attempts: Attempts
) -> None:
    """Resumed from step 2: the first attempt's points beyond it are abandoned, not deleted."""
    feed.write(*attempts, points([(i, i, float(i)) for i in range(5)], **A1))
    feed.write(run_event(**A2, seq=1, event="updated", status=None, resumed_from_step=2))
    feed.write(points([(0, 3, 30.0)], **A2))
    assert feed.rows(METRICS) == [
        (1, 0, 0.0, 0), (1, 1, 1.0, 0), (1, 2, 2.0, 0), (1, 3, 3.0, 1), (1, 4, 4.0, 1),
        (2, 3, 30.0, 0),
    ]  # fmt: skip
    assert feed.rows(SERIES) == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0)]


def test_first_point_of_a_later_attempt_decides_without_a_resume_step(
    feed: Any, points: Points, attempts: Attempts
) -> None:
    """Without a resume event, points from the later attempt's first step on are abandoned."""
    feed.write(*attempts, points([(i, i, float(i)) for i in range(4)], **A1))
    feed.write(points([(0, 2, 20.0)], **A2))
    assert [row[3] for row in feed.rows(METRICS)] == [0, 0, 1, 1, 0]
    assert feed.rows(SERIES) == [(0, 0.0), (1, 1.0), (2, 20.0)]


def test_a_later_attempt_without_points_abandons_nothing(
    feed: Any, points: Points, attempts: Attempts
) -> None:
    """A restart that has not logged yet does not empty the curve."""
    feed.write(*attempts, points([(0, 1, 1.0), (1, 2, 2.0)], **A1))
    assert feed.rows(SERIES) == [(1, 1.0), (2, 2.0)]


def test_third_attempt_abandons_points_of_both_earlier_attempts(
    feed: Any, points: Points, attempts: Attempts
) -> None:
    """Points beyond the step a later attempt went back to are abandoned in all earlier ones."""
    third = run_event(
        attempt="attempt-3", writer="w3", at_ns=attempts[1].at_ns * 2 - attempts[0].at_ns
    )
    feed.write(*attempts, third, points([(i, i, 1.0) for i in range(6)], **A1))
    feed.write(points([(i, i + 4, 2.0) for i in range(3)], **A2))
    feed.write(points([(0, 2, 3.0)], attempt="attempt-3", writer="w3"))
    assert feed.rows(SERIES) == [(0, 1.0), (1, 1.0), (2, 3.0)]


def test_latest_attempt_wins_for_steps_below_its_resume_step(
    feed: Any, points: Points, attempts: Attempts
) -> None:
    """A later attempt that logs an old step again replaces it in the series."""
    resumed = run_event(**A2, seq=1, event="updated", status=None, resumed_from_step=5)
    feed.write(*attempts, resumed, points([(9, 3, 1.0)], **A1), points([(0, 3, 2.0)], **A2))
    assert feed.rows(SERIES) == [(3, 2.0)]
    assert [row[3] for row in feed.rows(METRICS)] == [1, 0]


def test_attempts_are_numbered_by_their_first_start(
    feed: Any, points: Points, attempts: Attempts
) -> None:
    """The order of arrival does not matter, nor does a repeat of the first attempt's start."""
    feed.write(attempts[1], points([(0, 10, 2.0)], **A2))
    feed.write(attempts[0], points([(0, 1, 1.0)], **A1))
    assert [row[:2] for row in feed.rows(METRICS)] == [(1, 1), (2, 10)]
    assert feed.row("SELECT attempt FROM v_runs") == (2,)


def test_points_without_a_run_event_are_in_the_views(feed: Any, points: Points) -> None:
    """A run whose start event was lost is still a run with points."""
    feed.write(points([(0, 1, 1.0)]))
    assert feed.rows(METRICS) == [(1, 1, 1.0, 0)]
    assert feed.row("SELECT run_id, status, last_step FROM v_runs") == ("run-1", "running", 1)


def test_series_is_right_at_chunk_borders(feed: Any, points: Points) -> None:
    """Steps around zero and around multiples of 65,536 may be out of order and repeated."""
    steps = [-65_537, -65_536, -1, 0, 1, 65_535, 65_536, 131_071, 131_072, 2**40]
    twice = [*steps, *reversed(steps)]
    feed.write(points([(i, step, float(i)) for i, step in enumerate(twice)]))
    last = [(step, float(2 * len(steps) - 1 - i)) for i, step in enumerate(steps)]
    assert feed.rows(SERIES) == last


def test_long_series_shows_each_step_once_despite_a_repeat(feed: Any, points: Points) -> None:
    """Of 200,000 steps one is written twice: each step is shown once, the second value kept."""
    count = 200_000
    feed.write(points([(i, i, 0.0) for i in range(count)]))
    feed.write(points([(count, 77_777, 1.0)]))
    assert feed.row("SELECT count(), uniqExact(step), sum(value) FROM v_series") == (
        count,
        count,
        1.0,
    )
    assert feed.row("SELECT value FROM v_series WHERE step = 77777") == (1.0,)


def test_non_finite_values_are_points_but_no_extremes(feed: Any, points: Points) -> None:
    """They are points and may be the latest; minimum and maximum are of finite values only."""
    feed.write(points([(0, 0, 1.0), (1, 1, math.inf), (2, 2, -2.0), (3, 3, math.nan)]))
    step, value, least, greatest = feed.row("SELECT step, value, min, max FROM v_latest")
    assert (step, least, greatest) == (3, -2.0, 1.0)
    assert math.isnan(value)
    assert feed.row("SELECT count() FROM v_series") == (4,)


def test_series_without_finite_values_has_no_extremes(feed: Any, points: Points) -> None:
    """If all values are NaN or infinite, minimum and maximum are absent."""
    feed.write(points([(0, 0, math.nan)]))
    assert feed.row("SELECT min, max FROM v_latest") == (None, None)


def test_latest_value_is_the_last_written_not_the_greatest_step(feed: Any, points: Points) -> None:
    """A metric that goes back to an earlier step has its latest value there."""
    feed.write(points([(0, 10, 1.0), (1, 20, 2.0), (2, 5, 3.0)]))
    assert feed.row("SELECT step, value, min, max FROM v_latest") == (5, 3.0, 1.0, 3.0)


@pytest.mark.parametrize("view", ["v_metrics", "v_series"])
def test_filter_on_names_skips_granules_through_the_views(
    feed: Any, points: Points, view: str
) -> None:
    """A filter on run, metric or project reaches the table through the view and skips granules."""
    for run in range(4):
        for metric in range(4):
            wanted = [(i, i, 1.0) for i in range(20_000)]
            feed.write(
                points(
                    wanted,
                    name=f"m{metric}",
                    run_id=f"run-{run}",
                    project=f"p{run}",
                    writer=f"w{run}",
                )
            )
    feed.client.command("OPTIMIZE TABLE metrics FINAL")
    whole = granules(feed, f"SELECT value FROM {view}")
    assert whole >= 4 * 4 * 2
    by_run = granules(feed, f"SELECT value FROM {view} WHERE run_id = 'run-2'")
    by_project = granules(feed, f"SELECT value FROM {view} WHERE project = 'p2'")
    by_both = granules(feed, f"SELECT value FROM {view} WHERE run_id = 'run-2' AND metric = 'm1'")
    of_series = "project = 'p2' AND run_id = 'run-2' AND metric = 'm1'"
    by_key = granules(feed, f"SELECT value FROM {view} WHERE {of_series}")
    by_metric = granules(feed, f"SELECT value FROM {view} WHERE metric = 'm1'")
    # One run in four, one series in sixteen; a border may add a granule on each side, and without
    # the project there is a border in each.
    assert max(by_run, by_project) <= whole / 4 + 2
    assert by_key <= whole / 16 + 2
    assert by_both <= whole / 16 + 2 + 4
    assert by_metric <= whole / 4 + 8
    assert feed.row(f"SELECT count() FROM {view} WHERE run_id = 'run-2' AND metric = 'm1'") == (
        20_000,
    )


@pytest.mark.parametrize("view", ["v_metrics", "v_series"])
def test_restart_of_another_run_adds_nothing_to_a_curve(
    feed: Any, points: Points, attempts: Attempts, view: str
) -> None:
    """The part of the view that thins restarted runs reads no granule of a run without restart."""
    wanted = [(i, i, 1.0) for i in range(20_000)]
    feed.write(points(wanted, writer="w", run_id="run-2"))
    of_run = "project = 'tests' AND run_id = 'run-2' AND metric = 'loss'"
    query = f"SELECT value FROM {view} WHERE {of_run}"
    before = granules_of_parts(feed, query)
    feed.write(*attempts, points(wanted, **A1), points(wanted, **A2))
    assert feed.row("SELECT count() FROM untidy_writers") == (2,)
    feed.client.command("OPTIMIZE TABLE metrics FINAL")
    alone, thinned = granules_of_parts(feed, query)
    assert sum(before) <= 20_000 // 8192 + 1
    assert alone <= 20_000 // 8192 + 2
    assert thinned == 0


def granules_of_parts(feed: Any, query: str) -> list[int]:
    """Granules that each part of a view reads of `metrics`."""
    plan = "\n".join(line for (line,) in feed.rows(f"EXPLAIN indexes = 1 {query}"))
    reads = re.split(r"ReadFromMergeTree \(", plan)[1:]
    found = [re.findall(r"Granules: (\d+)", read) for read in reads if ".metrics)" in read[:60]]
    return [int(counts[-1]) for counts in found]


def granules(feed: Any, query: str) -> int:
    """Granules of `metrics` left after every index."""
    lines = [line.strip(" │├└─") for (line,) in feed.rows(f"EXPLAIN indexes = 1 {query}")]
    start = next(i for i, line in enumerate(lines) if line.endswith(".metrics)"))
    left = None
    for line in lines[start:]:
        if line.startswith("ReadFromMergeTree") and left is not None:
            break
        if line.startswith("Granules:"):
            left = int(line.removeprefix("Granules:").split("/")[0])
        elif line.startswith("Parts:") and "Granules:" in line and left is None:
            left = int(line.split("Granules:")[1])
    assert left is not None, "\n".join(lines)
    return left
