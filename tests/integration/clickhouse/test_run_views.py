"""v_runs, v_params, v_completeness, v_logs and tombstones on inputs checked by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from runwire_consumers.clickhouse.sink import TOMBSTONES_REFRESH_S, ClickHouseSink
from runwire_consumers.clickhouse.tombstones import RUN_TABLES, delete_run
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import MemoryClock
from runwire_schemas.events import DeadLetter, MetricBatch
from support.builders import AT_NS, WRITER, heartbeat, log_event, param_event, run_event

pytestmark = pytest.mark.engine

Points = Callable[..., MetricBatch]
SECOND = 1_000_000_000
NOW_NS = time.time_ns()  # heartbeats of long ago expire
STATUS = "SELECT status, status_reason FROM v_runs"


def ended(status: str, seq: int = 9, **overrides: Any) -> Any:
    return run_event(event="finished", status=status, seq=seq, **overrides)


def test_run_fields_keep_their_last_value_one_by_one(feed: Any) -> None:
    """An event that leaves out a field, or a tag, keeps its value."""
    feed.write(
        run_event(name="first", group="g", tags={"a": "1", "b": "1"}, world_size=2),
        run_event(seq=1, event="updated", status=None, name="second", at_ns=AT_NS + 1_000_000),
        run_event(seq=2, event="updated", status=None, tags={"b": "2"}, at_ns=AT_NS + 2_000_000),
    )
    found = feed.row("SELECT name, group, tags, world_size, status, parent_run_id FROM v_runs")
    assert found == ("second", "g", {"a": "1", "b": "2"}, 2, "running", None)


def test_replayed_older_run_event_changes_nothing(feed: Any) -> None:
    """The greatest seq of a writer wins, not the latest arrival."""
    feed.write(ended("failed", status_reason="OOM", exit_code=1))
    feed.write(run_event())
    assert feed.row(f"{STATUS}") == ("failed", "OOM")
    assert feed.row("SELECT exit_code FROM v_runs") == (1,)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["finished", "finished"], "finished"),
        (["finished", "failed"], "failed"),
        (["finished", "killed"], "killed"),
        (["interrupted", "finished"], "interrupted"),
        (["preempted", "finished"], "preempted"),
        (["failed", None], "running"),
        (["finished", None], "running"),
    ],
)
def test_run_status_combines_the_ends_of_all_ranks(
    feed: Any, words: list[str | None], expected: str
) -> None:
    """One bad end outweighs good ones; one writer that has not ended keeps the run running."""
    for rank, word in enumerate(words):
        who = {"writer": f"w{rank}", "rank": rank}
        feed.write(run_event(**who))
        if word:
            feed.write(ended(word, **who, at_ns=AT_NS + SECOND, status_reason=f"rank {rank}"))
    status, writers, finished_at = feed.row("SELECT status, writers, finished_at FROM v_runs")
    assert (status, writers) == (expected, 2)
    assert (finished_at is None) == (expected == "running")


def test_status_reason_comes_from_the_rank_that_decided(feed: Any) -> None:
    """The reason shown belongs to the rank whose end decided the status of the run."""
    feed.write(run_event(writer="w0"), run_event(writer="w1", rank=1))
    feed.write(ended("finished", writer="w0", status_reason="done"))
    feed.write(ended("failed", writer="w1", rank=1, status_reason="CUDA error"))
    assert feed.row(STATUS) == ("failed", "CUDA error")


def beat(feed: Any, run: str, age_s: int, **overrides: Any) -> None:
    at_ns = NOW_NS - age_s * SECOND
    event = heartbeat(run_id=run, at_ns=at_ns, writer=f"w-{run}", **overrides)
    feed.write(event, append_at_ns=at_ns)


def started(feed: Any, run: str) -> None:
    at_ns = NOW_NS - 600 * SECOND
    feed.write(run_event(run_id=run, writer=f"w-{run}", at_ns=at_ns), append_at_ns=at_ns)


def test_run_is_lost_relative_to_the_newest_heartbeat(feed: Any) -> None:
    """A run 61 s behind the newest heartbeat is lost; one 60 s behind is not."""
    for run, age_s in {"fresh": 0, "slow": 60, "gone": 61}.items():
        started(feed, run)
        beat(feed, run, age_s)
    found = dict(feed.rows("SELECT run_id, status FROM v_runs"))
    assert found == {"fresh": "running", "slow": "running", "gone": "lost"}
    (reason,) = feed.row("SELECT status_reason FROM v_runs WHERE run_id = 'gone'")
    assert reason.startswith("no heartbeat since")


def test_lagging_pipeline_marks_no_run_as_lost(feed: Any) -> None:
    """If all heartbeats are an hour old, no run is behind the others, whatever the clock shows."""
    for run in ("one", "two"):
        started(feed, run)
        beat(feed, run, 3600)
    assert {s for (s,) in feed.rows("SELECT status FROM v_runs")} == {"running"}


def test_points_without_heartbeats_keep_a_run_alive(feed: Any, points: Points) -> None:
    """A run whose agent died but whose points still arrive is not lost."""
    for run in ("fresh", "silent"):
        started(feed, run)
    beat(feed, "silent", 300)
    beat(feed, "fresh", 0)
    feed.write(points([(0, 1, 1.0)], run_id="silent", writer="w-silent"), append_at_ns=NOW_NS)
    assert {s for (s,) in feed.rows("SELECT status FROM v_runs")} == {"running"}


def test_ended_run_is_never_called_lost(feed: Any) -> None:
    """A run that reported its end keeps that status, however old its heartbeats are."""
    started(feed, "done")
    beat(feed, "done", 500)
    feed.write(ended("finished", run_id="done", writer="w-done", at_ns=NOW_NS - 400 * SECOND))
    started(feed, "fresh")
    beat(feed, "fresh", 0)
    assert feed.row("SELECT status FROM v_runs WHERE run_id = 'done'") == ("finished",)


def test_run_is_finished_when_trainer_and_worker_processes_have_ended(feed: Any) -> None:
    """A beating worker process keeps the run running; its end is the agent's last heartbeat."""
    started(feed, "run")
    worker = {"run_id": "run", "writer": "w-worker"}
    feed.write(run_event(**worker, event="updated", status=None, tags={"by": "worker"}))
    feed.write(heartbeat(**worker, at_ns=NOW_NS), append_at_ns=NOW_NS)
    end_ns = NOW_NS + SECOND
    feed.write(ended("finished", run_id="run", writer="w-run", at_ns=end_ns), append_at_ns=end_ns)
    assert feed.row("SELECT status, finished_at FROM v_runs") == ("running", None)
    last_ns = NOW_NS + 2 * SECOND
    feed.write(heartbeat(**worker, at_ns=last_ns, phase="ended"), append_at_ns=last_ns)
    finished_ms = "toUnixTimestamp64Milli(assumeNotNull(finished_at))"
    found = feed.row(f"SELECT status, {finished_ms}, second_writers FROM v_runs")
    assert found == ("finished", end_ns // 1_000_000, 0)
    assert {s for (s,) in feed.rows("SELECT status FROM v_writers")} == {"finished"}


def test_worker_process_that_went_silent_does_not_make_a_finished_run_lost(
    feed: Any, points: Points
) -> None:
    """Its trainer finished; of workers without a last word only a beating one counts."""
    started(feed, "run")
    beat(feed, "other", 0)
    worker = {"run_id": "run", "writer": "w-worker", "at_ns": NOW_NS - 300 * SECOND}
    feed.write(heartbeat(**worker), append_at_ns=NOW_NS - 300 * SECOND)
    feed.write(points([(0, 1, 1.0)], run_id="run", writer="w-quick"))
    feed.write(ended("finished", run_id="run", writer="w-run", at_ns=NOW_NS - 290 * SECOND))
    assert feed.row("SELECT status FROM v_runs WHERE run_id = 'run'") == ("finished",)
    assert ("w-worker", "lost") in feed.rows("SELECT writer, status FROM v_writers")


def test_what_a_worker_process_sets_is_merged_key_by_key(feed: Any) -> None:
    """A pickled handle that sets one tag, or one summary value, wipes no other."""
    feed.write(run_event(tags={"a": "1", "b": "2"}, summary='{"best": 3, "n": [1, "x"]}'))
    later = {"event": "updated", "status": None, "at_ns": AT_NS + SECOND}
    feed.write(
        run_event(writer="w-worker", tags={"b": "new", "c": "3"}, summary='{"best": 4}', **later),
        append_at_ns=AT_NS + SECOND,
    )
    tags, best, count = feed.row(
        "SELECT tags, JSONExtractInt(summary, 'best'), JSONExtractRaw(summary, 'n') FROM v_runs"
    )
    assert tags == {"a": "1", "b": "new", "c": "3"}
    assert (best, count) == (4, '[1,"x"]')


def test_run_shows_what_was_dropped_and_completeness_counts_points_only(
    feed: Any, points: Points
) -> None:
    """Failed calls are in v_runs by their name; points that were never accepted in both views."""
    dropped = {"call:log_artifact": 2, "quota": 3}
    end = ended("finished", accepted=1, dropped=dropped)
    feed.write(run_event(), points([(0, 0, 1.0)]), end)
    other = {"writer": "w1", "rank": 1}
    feed.write(run_event(**other), ended("finished", accepted=0, dropped={"quota": 1}, **other))
    assert feed.row("SELECT dropped FROM v_runs") == ({"call:log_artifact": 2, "quota": 4},)
    assert feed.rows(COMPLETE) == [(0, 1, 1, 0, 3, 0), (1, 0, 0, 0, 1, 0)]


def test_newest_heartbeat_counts_when_a_new_agent_restarts_seqs(feed: Any) -> None:
    """Heartbeats of a new agent have small seqs again: the newest in time counts."""
    started(feed, "run")
    beat(feed, "run", 100, seq=500, last_step=5)
    beat(feed, "run", 10, seq=0, last_step=8)
    assert feed.row("SELECT last_step FROM v_runs") == (8,)
    assert feed.row("SELECT count() FROM heartbeats") == (2,)


def test_run_progress_comes_from_points_and_heartbeats(feed: Any, points: Points) -> None:
    """The views show the greatest step, when it was reached, and the last sign of life."""
    started(feed, "run")
    beat(feed, "run", 5, last_step=40, last_progress_at_ns=NOW_NS - 6 * SECOND)
    feed.write(points([(0, 30, 1.0)], run_id="run", writer="w-run"), append_at_ns=NOW_NS)
    found = feed.row(
        "SELECT last_step, toUnixTimestamp64Milli(assumeNotNull(last_progress_at)), "
        "toUnixTimestamp64Milli(last_seen_at) FROM v_runs"
    )
    progress_ms, seen_ms = ((NOW_NS - age * SECOND) // 1_000_000 for age in (6, 5))
    assert found == (40, progress_ms, seen_ms)


def test_run_shows_the_status_of_its_latest_attempt(feed: Any) -> None:
    """A resumed run is running again; it keeps its name and its first start."""
    later = {"attempt": "attempt-2", "writer": "w2", "at_ns": AT_NS + 60 * SECOND}
    feed.write(run_event(name="n"), ended("failed", at_ns=AT_NS + SECOND))
    feed.write(run_event(**later, resumed_from_step=7))
    found = feed.row(
        "SELECT status, attempt, name, finished_at, resumed_from_step, last_step, "
        "dateDiff('second', first_started_at, started_at) FROM v_runs"
    )
    assert found == ("running", 2, "n", None, 7, 7, 60)


def test_param_shows_the_value_logged_last(feed: Any) -> None:
    """A parameter that is logged again shows its last value."""
    feed.write(param_event(), param_event(seq=5, value="0.5"), param_event(key="b", value="null"))
    assert feed.rows("SELECT key, value FROM v_params ORDER BY key") == [
        ("b", "null"),
        ("lr", "0.5"),
    ]


def test_log_lines_read_back_with_all_fields(feed: Any) -> None:
    """A log line has its stream, step, text and attempt number in v_logs."""
    feed.write(run_event(), log_event(step=4, text="line\n\u00e9"), log_event(seq=4, stream="sdk"))
    found = feed.rows("SELECT stream, step, text, attempt FROM v_logs ORDER BY seq")
    assert found == [("stdout", 4, "line\n\u00e9", 1), ("sdk", None, "hello", 1)]


def letter(points: int, **overrides: Any) -> DeadLetter:
    fields: dict[str, Any] = {
        "id": "x", "stream": "metric", "partition": f"{WRITER}/metric",
        "offset": 1, "last_offset": 1,
        "at_ns": AT_NS, "reason": "r", "key": b"", "value": b"v",
    }  # fmt: skip
    return DeadLetter(**{**fields, "points": points, **overrides})


COMPLETE = (
    "SELECT rank, accepted, stored, dead_lettered, dropped, pending FROM v_completeness "
    "ORDER BY rank"
)


def test_completeness_balances_accepted_stored_and_pending(feed: Any, points: Points) -> None:
    """accepted = stored + dead-lettered + pending, per rank, however often all is replayed."""
    other = {"writer": "w1", "rank": 1}
    for token in ("w:1", "w:1", "w:2"):
        feed.write(
            points([(0, 0, 1.0), (1, 1, 2.0)]),
            points([(2, 2, 1.0)], **other),
            letter(3),
            ended("finished", accepted=9, dropped={"quota": 4, "nan": 1}),
            ended("finished", accepted=1, **other),
            token=token,
        )
    assert feed.rows(COMPLETE) == [(0, 9, 2, 3, 5, 4), (1, 1, 1, 0, 0, 0)]


def test_completeness_sums_the_writers_of_a_rank(feed: Any, points: Points) -> None:
    """Two attempts are two writers: their cumulative counters are summed, not compared."""
    for number in (1, 2):
        who = {"writer": f"w{number}", "attempt": f"a{number}"}
        feed.write(points([(0, number, 1.0)], **who), ended("finished", accepted=2, **who))
    assert feed.rows(COMPLETE) == [(0, 4, 2, 0, 0, 2)]


def test_lagging_heartbeat_never_makes_pending_negative(feed: Any, points: Points) -> None:
    """While a writer runs, stored points count as accepted, whatever its last heartbeat knew."""
    at = {"at_ns": NOW_NS}
    feed.write(
        heartbeat(accepted=1, **at), points([(i, i, 1.0) for i in range(5)]), append_at_ns=NOW_NS
    )
    assert feed.rows(COMPLETE) == [(0, 5, 5, 0, 0, 0)]
    feed.write(heartbeat(accepted=8, seq=3, at_ns=NOW_NS + SECOND), append_at_ns=NOW_NS)
    assert feed.rows(COMPLETE) == [(0, 8, 5, 0, 0, 3)]


def test_deleted_run_stays_deleted_when_its_spool_arrives_late(feed: Any, points: Points) -> None:
    """Views hide it, its rows are deleted, and a late spool of it is dropped and counted."""
    everything = [
        run_event(),
        param_event(),
        log_event(),
        points([(0, 0, 1.0), (1, 1, 1.0)]),
        letter(1),
    ]
    feed.write(*everything, run_event(run_id="other"))
    assert delete_run(feed.client, "tests", "run-1")
    # The letter knows no run: it stays, it is about bytes nobody could read.
    for table in set(RUN_TABLES) - {"dead_letters"}:
        left = feed.row(f"SELECT count() FROM {table} WHERE run_id = 'run-1'")
        assert left == (0,), table

    clock = MemoryClock()
    late = ClickHouseSink(feed.url, clock=clock)
    late.check()
    batch = feed.write()
    late.write(_with(batch, everything, points))
    assert late.rows_of_deleted_runs == {"run": 1, "metric": 2}
    assert feed.rows("SELECT run_id FROM v_runs") == [("other",)]
    assert feed.row("SELECT count() FROM metrics") == (0,)
    late.close(None)  # type: ignore[arg-type]


def _with(batch: Batch, events: list[Any], points: Points) -> Batch:
    from dataclasses import replace

    from runwire_schemas.metric_columns import columns_of

    metrics = [columns_of(e) for e in events if isinstance(e, MetricBatch)]
    return replace(batch, token="late:1", events={"run": [events[0]]}, metrics=metrics)


def test_sink_drops_rows_of_a_deleted_run_after_its_refresh(feed: Any, points: Points) -> None:
    """Until the sink refreshes, rows may still be stored; views hide them all the same."""
    clock = MemoryClock()
    sink = ClickHouseSink(feed.url, clock=clock)
    sink.check()
    delete_run(feed.client, "tests", "run-1")
    batch = feed.write()
    sink.write(_with(batch, [run_event(), points([(0, 0, 1.0)])], points))
    for view in ("v_runs", "v_metrics", "v_series", "v_latest", "v_completeness"):
        assert feed.row(f"SELECT count() FROM {view}") == (0,), view
    clock.advance(TOMBSTONES_REFRESH_S)
    sink.write(_with(batch, [run_event(), points([(5, 5, 1.0)])], points))
    assert sink.rows_of_deleted_runs == {"run": 1, "metric": 1}
    sink.close(None)  # type: ignore[arg-type]
