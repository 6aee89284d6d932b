"""Deleted runs: their rows are removed in the background, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runwire_consumers.clickhouse.sink import TOMBSTONES_REFRESH_S, ClickHouseSink
from runwire_consumers.clickhouse.tombstones import (
    ARCHIVED,
    DELETED,
    RESTORING,
    RUN_TABLES,
    find_tombstones,
    hide_run,
    remove_rows,
)
from runwire_consumers.core.clock import Deadline, MemoryClock
from runwire_consumers.housekeeping.purge import (
    PurgeReport,
    count_rows,
    forget,
    purge,
    send_deletions,
    settle,
    spooled_runs,
    wait_until_purged,
)
from runwire_schemas.events import MetricBatch
from support.builders import (
    artifact_event,
    checkpoint_event,
    heartbeat,
    log_event,
    param_event,
    run_event,
)
from support.faults import wait_for
from support.spools import new_writer

pytestmark = pytest.mark.fault

Points = Callable[..., MetricBatch]
RUN = ("tests", "run-1")
LONG_S = 1e9
VIEWS = ("v_runs", "v_metrics", "v_series", "v_latest", "v_completeness", "v_logs", "v_params")


def silent(_count: int, _failures: dict[str, str]) -> None:
    """Report nothing."""


def everything(points: Points, run_id: str = "run-1") -> list[Any]:
    """Rows in every table but the letters."""
    events = (run_event, param_event, log_event, heartbeat, checkpoint_event)
    made = [build(run_id=run_id) for build in events]
    artifact = artifact_event(run_id=run_id, artifact=f"{run_id:0>32}")  # no two runs share an id
    return [*made, artifact, points([(0, 0, 1.0), (1, 1, 1.0), (2, 1, 1.0)], run_id=run_id)]


def rounds(client: Any, **how: Any) -> Callable[[], bool]:
    """Purge until no run is left; a step of `wait_for`."""

    def step() -> bool:
        report = purge(client, **{"forget_s": LONG_S, "settle_s": 0.0, **how})
        return not report.left and not report.settled

    return step


def test_deleted_run_is_hidden_at_once_and_its_rows_go_later(feed: Any, points: Points) -> None:
    """While merges are stopped every step returns, views show nothing, and no row is lost yet."""
    feed.write(*everything(points), *everything(points, "other"))
    tables = sorted(count_rows(feed.client, "run_id = 'run-1'")[RUN])
    for table in RUN_TABLES:
        feed.client.command(f"SYSTEM STOP MERGES {table}")
    hide_run(feed.client, *RUN)
    for view in VIEWS:
        assert feed.rows(f"SELECT count() FROM {view} WHERE run_id = 'run-1'") == [(0,)], view
    first = purge(feed.client, forget_s=LONG_S)
    second = purge(feed.client, forget_s=LONG_S)
    assert sorted(first.sent) == sorted(second.waiting) == tables
    assert second.sent == ()
    assert sum(second.left[RUN].values()) > 0
    for table in RUN_TABLES:
        feed.client.command(f"SYSTEM START MERGES {table}")
    wait_until_purged(feed.client, [RUN], silent)
    assert count_rows(feed.client, "run_id = 'run-1'") == {}
    assert sorted(count_rows(feed.client, "run_id = 'other'")["tests", "other"]) == tables


def test_purge_sends_one_statement_per_table_for_all_runs(feed: Any, points: Points) -> None:
    """A hundred deleted runs cost as many statements as one."""
    names = [f"run-{number}" for number in range(100)]
    feed.write(*(event for name in names for event in everything(points, name)))
    for name in names[:-1]:
        hide_run(feed.client, "tests", name)
    report = purge(feed.client, forget_s=LONG_S)
    assert len(report.left) == 99
    wait_until_purged(feed.client, list(report.left), silent)
    sent = feed.rows(
        "SELECT table, count() FROM system.mutations WHERE database = currentDatabase() "
        "GROUP BY table"
    )
    assert sorted(sent) == sorted((table, 1) for table in report.sent)
    assert feed.rows("SELECT run_id FROM v_runs") == [(names[-1],)]


def test_mark_moves_when_no_row_is_left_and_no_writer_can_be_late(
    feed: Any, points: Points
) -> None:
    """The mark stays while rows are left or it is young; then workers alone see it."""
    feed.write(*everything(points))
    mark = hide_run(feed.client, *RUN)
    assert settle(feed.client, settle_s=0.0) == ()
    wait_until_purged(feed.client, [RUN], silent)
    assert settle(feed.client, settle_s=3600.0) == ()
    assert find_tombstones(feed.client, "run-1") == [mark]
    assert settle(feed.client, settle_s=0.0) == (RUN,)
    wait_for("the mark", lambda: feed.row("SELECT count() FROM deleted_runs") == (0,))
    assert [one.is_purged for one in find_tombstones(feed.client, "run-1")] == [True]


def test_late_spool_of_a_purged_run_is_dropped_by_workers(feed: Any, points: Points) -> None:
    """No row of it is stored, though views no longer look for the mark."""
    feed.write(*everything(points))
    hide_run(feed.client, *RUN)
    wait_for("the purge", rounds(feed.client))
    late = ClickHouseSink(feed.url, clock=MemoryClock())
    late.check()
    late.write(feed_batch(feed, points))
    late.close(Deadline(1))
    assert late.rows_of_deleted_runs == {"metric": 1}
    assert feed.row("SELECT count() FROM metrics") == (0,)


def feed_batch(feed: Any, points: Points, seq: int = 9) -> Any:
    """A batch with one point of the run, written by nobody yet."""
    from dataclasses import replace

    from runwire_schemas.metric_decode import columns_of

    empty = feed.write()
    return replace(empty, token=f"late:{seq}", metrics=[columns_of(points([(seq, seq, 1.0)]))])


def test_mark_is_forgotten_when_old_and_no_spool_has_the_run(
    feed: Any, points: Points, tmp_path: Path
) -> None:
    """A spool of the run on this disk keeps the mark; without one it goes when it is old."""
    feed.write(*everything(points))
    hide_run(feed.client, *RUN)
    wait_for("the purge", rounds(feed.client))
    writer = new_writer(tmp_path)
    writer.close()
    assert spooled_runs(tmp_path) == {RUN}
    assert forget(feed.client, forget_s=LONG_S) == 0
    assert forget(feed.client, forget_s=0.0, spooled=spooled_runs(tmp_path)) == 0
    assert find_tombstones(feed.client, "run-1") != []
    assert forget(feed.client, forget_s=0.0, spooled=spooled_runs(tmp_path / "empty")) == 1
    wait_for("the mark", lambda: find_tombstones(feed.client, "run-1") == [])


def test_rows_of_a_worker_that_slept_through_the_purge_are_removed_too(
    feed: Any, points: Points
) -> None:
    """A worker that learned of nothing writes after the purge: the next rounds remove it."""
    clock = MemoryClock()
    asleep = ClickHouseSink(feed.url, clock=clock)
    asleep.check()
    feed.write(*everything(points))
    hide_run(feed.client, *RUN)
    wait_for("the purge", rounds(feed.client))
    asleep.write(feed_batch(feed, points))
    assert feed.row("SELECT count() FROM metrics") == (1,)
    report = purge(feed.client, forget_s=0.0, settle_s=LONG_S)
    assert report.returned == (RUN,)
    assert report.forgotten == 0
    assert feed.row("SELECT count() FROM v_metrics") == (0,)
    clock.advance(TOMBSTONES_REFRESH_S)
    asleep.write(feed_batch(feed, points, 10))
    asleep.close(Deadline(1))
    wait_for("the purge", rounds(feed.client))
    assert count_rows(feed.client, "run_id = 'run-1'") == {}


def test_run_that_is_still_written_while_deleted_ends_without_rows(
    feed: Any, points: Points
) -> None:
    """Batches go on between all steps of the purge; in the end no row is left."""
    clock = MemoryClock()
    sink = ClickHouseSink(feed.url, clock=clock)
    sink.check()
    seqs = iter(range(100, 200))

    def write() -> None:
        sink.write(feed_batch(feed, points, next(seqs)))

    write()
    hide_run(feed.client, *RUN)
    write()
    send_deletions(feed.client)
    write()
    clock.advance(TOMBSTONES_REFRESH_S)
    write()
    wait_for("the purge", rounds(feed.client))
    write()
    sink.close(Deadline(1))
    assert count_rows(feed.client, "run_id = 'run-1'") == {}
    assert sink.rows_of_deleted_runs == {"metric": 2}


def test_run_that_is_being_restored_keeps_its_rows_from_a_deletion_on_its_way(
    feed: Any, points: Points
) -> None:
    """A deletion sent before looks at the marks when it is carried out."""
    feed.write(*everything(points))
    tables = count_rows(feed.client, "run_id = 'run-1'")
    for table in RUN_TABLES:
        feed.client.command(f"SYSTEM STOP MERGES {table}")
    hide_run(feed.client, *RUN, ARCHIVED)
    assert purge(feed.client, forget_s=LONG_S).left == tables
    hide_run(feed.client, *RUN, RESTORING)
    assert purge(feed.client, forget_s=0.0, settle_s=0.0) == PurgeReport(
        left={},
        sent=(),
        waiting=dict.fromkeys(tables[RUN], ""),
        settled=(),
        returned=(),
        forgotten=0,
    )
    for table in RUN_TABLES:
        feed.client.command(f"SYSTEM START MERGES {table}")
    pending = (
        "SELECT count() FROM system.mutations WHERE database = currentDatabase() AND NOT is_done"
    )
    wait_for("the deletions", lambda: feed.row(pending) == (0,))
    assert count_rows(feed.client, "run_id = 'run-1'") == tables
    hide_run(feed.client, *RUN)
    assert [mark.state for mark in find_tombstones(feed.client, "run-1")] == [DELETED]
    wait_until_purged(feed.client, [RUN], silent)
    assert count_rows(feed.client, "run_id = 'run-1'") == {}


def test_thousands_of_marks_move_and_are_forgotten_in_one_round(feed: Any) -> None:
    """Statements that name all of them are longer than a server takes unless it is told."""
    feed.client.command(
        "INSERT INTO deleted_runs (project, run_id, deleted_at) "
        "SELECT 'tests', concat('a-long-name-of-a-run-', toString(number)), now64(3) "
        "FROM numbers(3000)"
    )
    spooled = {("tests", f"a-long-name-of-a-run-{number}") for number in range(10_000)}
    report = purge(feed.client, forget_s=0.0, settle_s=0.0, spooled=spooled)
    assert (len(report.settled), report.forgotten) == (3000, 0)
    wait_for("the marks", lambda: feed.row("SELECT count() FROM deleted_runs") == (0,))
    assert purge(feed.client, forget_s=0.0).forgotten == 3000
    wait_until_purged(feed.client, sorted(spooled), silent)


def test_reason_of_a_deletion_that_fails_is_reported_while_it_is_waited_for(
    feed: Any, points: Points
) -> None:
    """The number of rows stays the same then; only the reason is news."""
    feed.write(*everything(points))
    hide_run(feed.client, *RUN)
    fails = (
        "throwIf(value < 1e300, 'no space') "
        "OR (project, run_id) IN (SELECT project, run_id FROM deleted_runs)"
    )
    remove_rows(feed.client, "metrics", fails)
    reasons: list[str] = []

    def end_it(_count: int, failures: dict[str, str]) -> None:
        if failures:
            reasons.append(failures["metrics"])
            feed.client.command("KILL MUTATION WHERE table = 'metrics' AND NOT is_done")

    wait_until_purged(feed.client, [RUN], end_it)
    assert "no space" in reasons[0]
