"""The typed rows of the query API, read from the views of a real engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runwire_query.api.follow import Follower
from runwire_query.api.lineage import ask_if_reachable
from runwire_query.api.metrics import CurvePoint, read_completeness, read_curves, read_latest
from runwire_query.api.runs import (
    RunDetail,
    RunRef,
    find_run,
    list_runs,
    read_params,
    read_status,
)
from runwire_query.connection import Reader, connect
from runwire_query.errors import QueryError
from runwire_query.text.run_page import RunPage, as_page, json_value
from runwire_schemas.events import MetricBatch
from support.builders import AT_NS, param_event, run_event

pytestmark = pytest.mark.engine

RUN = RunRef(project="tests", run_id="run-1")
STARTED = datetime.fromtimestamp(AT_NS // 10**9, UTC)


@pytest.fixture
def reader(feed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A connection as the commands open it, to the database that the feed fills."""
    monkeypatch.setenv("RUNWIRE_CLICKHOUSE_URL", feed.url)
    made = connect(str(tmp_path))
    yield made
    made.close()


def test_runs_are_typed_rows_with_utc_times(feed: Any, reader: Reader) -> None:
    """Lists are filtered and newest first; a detail has every column of the view."""
    feed.write(
        run_event(name="alpha", tags={"team": "red"}),
        run_event(run_id="run-2", writer="w2", at_ns=AT_NS + 10**9),
        run_event(run_id="else", project="other", writer="w3"),
    )
    assert [run.run_id for run in list_runs(reader, project="tests")] == ["run-2", "run-1"]
    assert [run.run_id for run in list_runs(reader, project="tests", limit=1)] == ["run-2"]
    assert list_runs(reader, status="failed") == []
    detail = find_run(reader, "alpha")
    assert (detail.ref, detail.started_at, detail.tags) == (RUN, STARTED, {"team": "red"})
    (columns,) = feed.rows("SELECT groupArray(name) FROM system.columns WHERE table = 'v_runs'"
                           " AND database = currentDatabase()")  # fmt: skip
    assert {field.name for field in fields(RunDetail)} == set(columns[0])
    assert json_value(detail)["started_at"] == f"{STARTED:%Y-%m-%d %H:%M:%S}"


def test_run_is_found_by_unique_beginning_and_never_guessed(feed: Any, reader: Reader) -> None:
    """Several candidates are listed, an unknown name is an error, and a deleted run has a word."""
    feed.write(run_event(), run_event(run_id="run-2", writer="w2"))
    assert find_run(reader, "run-1", "tests").ref == RUN
    with pytest.raises(QueryError, match=r"fits 2 runs[\s\S]*run-1[\s\S]*"):
        find_run(reader, "run-")
    with pytest.raises(QueryError, match="no run has the id or name 'nobody'"):
        find_run(reader, "nobody")
    assert read_status(reader, RUN) == "running"
    assert read_status(reader, RunRef(project="tests", run_id="gone")) == "deleted"


def test_metrics_params_and_completeness_are_those_of_the_run(
    feed: Any, reader: Reader, points: Callable[..., MetricBatch]
) -> None:
    """A NaN is the last value, and neither an extreme nor part of a curve's means."""
    feed.write(run_event(), param_event(), points([(1, 10, 2.0), (2, 20, 1.0), (3, 30, math.nan)]))
    assert read_params(reader, RUN) == {"lr": "0.1"}
    (latest,) = read_latest(reader, RUN)
    assert (latest.metric, latest.step, latest.min, latest.max) == ("loss", 30, 1.0, 2.0)
    assert math.isnan(latest.value)
    assert latest.at.tzinfo is UTC
    (curve,) = read_curves(reader, RUN, [latest])
    assert [(point.step, point.value) for point in curve[:2]] == [(10, 2.0), (20, 1.0)]
    assert curve[2].value is None or math.isnan(curve[2].value)
    (row,) = read_completeness(reader, RUN)
    assert (row.rank, row.stored, row.accepted, row.dropped) == (0, 3, 3, 0)


def test_nanoseconds_for_milliseconds_break_no_list_and_no_page(
    feed: Any, reader: Reader, points: Callable[..., MetricBatch]
) -> None:
    """One record with times in another unit is stored at the time that it meant."""
    feed.write(run_event(), run_event(run_id="run-2", writer="w2"))
    for seq, at in enumerate((AT_NS, AT_NS // 1000, -(2**62), 2**63 - 1)):
        feed.write(points([(seq, seq, 1.0)], name=f"m{seq}", call_at_ms=[at]))
    assert {run.run_id for run in list_runs(reader)} == {"run-1", "run-2"}
    found = find_run(reader, "run-1")
    assert found.last_progress_at is not None
    times = {latest.metric: latest.at for latest in read_latest(reader, RUN)}
    assert times["m0"] == times["m1"] == STARTED
    assert times["m2"] == datetime(1970, 1, 1, tzinfo=UTC)
    assert times["m3"].year < 2300
    follower = Follower(reader, RUN, lines=9)
    assert len(follower.new_calls()) == 4


def test_curve_of_a_metric_with_a_very_long_name_is_read(
    feed: Any, reader: Reader, points: Callable[..., MetricBatch]
) -> None:
    """A name that fits no URL is stored, read and shown by its beginning."""
    name = "long/" + "x" * 2_000_000
    feed.write(run_event(), points([(1, 10, 2.0)], name=name))
    (latest,) = read_latest(reader, RUN)
    assert latest.metric == name
    (curve,) = read_curves(reader, RUN, [latest])
    assert [point.value for point in curve] == [2.0]
    detail = find_run(reader, "run-1")
    page = RunPage(run=detail, params={}, metrics=[latest], completeness=[])
    shown = as_page(page, [[CurvePoint(10, 2.0)]])
    assert "long/xxx" in shown
    assert len(shown) < 2_000


def test_curve_over_steps_of_all_64_bits_keeps_far_steps_apart(
    feed: Any, reader: Reader, points: Callable[..., MetricBatch]
) -> None:
    """Their range overflows Int64, and so does a lesser one times the number of buckets."""
    feed.write(run_event())
    for name, steps in (("a", (-(2**63), 0, 2**63 - 1)), ("b", (0, 10**18, 4 * 10**18))):
        feed.write(points([(seq, step, 1.0) for seq, step in enumerate(steps)], name=name))
    curves = read_curves(reader, RUN, read_latest(reader, RUN))
    assert [[point.step for point in curve] for curve in curves] == [
        [-(2**63), 0, 2**63 - 1],
        [0, 10**18, 4 * 10**18],
    ]


def test_curves_of_all_series_are_read_by_one_query(
    feed: Any, reader: Reader, points: Callable[..., MetricBatch]
) -> None:
    """Each series has its own buckets, ranks are kept apart, and the order is that of the rows."""
    feed.write(run_event())
    for name, rank, first in (("a", 0, 10), ("a", 1, -500), ("b", 0, 0)):
        steps = [(seq, first + seq, float(seq)) for seq in range(800)]
        feed.write(points(steps, name=name, rank=rank, writer=f"w-{name}-{rank}"))
    series = read_latest(reader, RUN)
    assert [(one.metric, one.rank) for one in series] == [("a", 0), ("a", 1), ("b", 0)]
    for one, curve in zip(series, read_curves(reader, RUN, series), strict=True):
        assert curve[0].step == one.step - 799
        assert [(p.step - curve[0].step, p.value) for p in curve] == [
            (2 * bucket, 2 * bucket + 0.5) for bucket in range(400)
        ]
    assert read_curves(reader, RUN, series[1:2])[0][0].step == -500
    assert read_curves(reader, RUN, []) == []


def test_page_says_what_was_dropped_and_never_complete_then(
    feed: Any, reader: Reader, points: Callable[..., MetricBatch]
) -> None:
    """Points by reason and failed calls by name are the last line; without any it is complete."""

    def books() -> str:
        detail = find_run(reader, "run-1")
        page = RunPage(
            run=detail, params={}, metrics=[], completeness=read_completeness(reader, RUN)
        )
        return as_page(page, [])

    feed.write(run_event(), points([(1, 10, 2.0)]))
    assert books().endswith("complete: all 1 accepted points are stored")
    dropped = {"call:save_checkpoint": 5, "quota": 1234}
    feed.write(run_event(seq=9, event="finished", status="finished", accepted=1, dropped=dropped))
    page = books()
    assert page.endswith("dropped: 1,234 points (quota), 5 calls of save_checkpoint")
    assert "complete" not in page


def test_follower_returns_each_call_once_and_late_ones_too(
    feed: Any, reader: Reader, points: Callable[..., MetricBatch]
) -> None:
    """The first poll has the last lines; a call that becomes visible late is still returned."""
    feed.write(run_event(), points([(1, 10, 2.0), (3, 30, 1.0)]))
    everything = Follower(reader, RUN, lines=3)
    assert [call.step for call in everything.new_calls()] == [10, 30]
    follower = Follower(reader, RUN, ["lo"], lines=1)
    assert [call.step for call in follower.new_calls()] == [30]
    assert follower.new_calls() == []
    feed.write(points([(2, 20, 1.5)]))
    (late,) = follower.new_calls()
    assert (late.step, late.values, late.at.tzinfo) == (20, {"loss": 1.5}, UTC)
    assert follower.new_calls() == []


def test_calls_of_two_writers_of_a_rank_are_followed_apart(
    feed: Any, reader: Reader, points: Callable[..., MetricBatch]
) -> None:
    """A forked process has the rank of its parent and counts its calls and steps from 0 as well."""
    feed.write(run_event(), points([(0, 0, 1.0)], writer="parent"))
    follower = Follower(reader, RUN, lines=9)
    assert [call.values for call in follower.new_calls()] == [{"loss": 1.0}]
    later = [AT_NS // 10**6 + 5_000]
    feed.write(points([(0, 0, 2.0)], writer="child", name="acc", call_at_ms=later))
    assert [call.values for call in follower.new_calls()] == [{"acc": 2.0}]
    whole = Follower(reader, RUN, lines=9)
    assert [call.values for call in whole.new_calls()] == [{"loss": 1.0}, {"acc": 2.0}]


def test_answer_without_clickhouse_has_the_reason_instead_of_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists of the store go on, and can say what is missing."""
    monkeypatch.setenv("RUNWIRE_CLICKHOUSE_URL", "http://me:geheim@127.0.0.1:1/x")
    answer = ask_if_reachable(str(tmp_path), lambda reader: reader.rows("SELECT 1"))
    assert answer.value is None
    assert "http://127.0.0.1:1/x does not answer" in answer.missing_because
    assert "geheim" not in answer.missing_because
