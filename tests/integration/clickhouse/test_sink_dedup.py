"""Exactly once: a retry under the same token changes nothing, a replay under another collapses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from runwire_consumers.clickhouse import rows
from runwire_consumers.core.errors import Fatal, Retryable, RowsRejected
from runwire_schemas.events import DeadLetter, MetricBatch
from support.builders import (
    AT_NS,
    artifact_event,
    checkpoint_event,
    heartbeat,
    log_event,
    param_event,
    run_event,
)

pytestmark = pytest.mark.engine

Points = Callable[..., MetricBatch]
LETTER = DeadLetter(
    id="ab" * 16, stream="metric", partition="w/metric", offset=7, last_offset=9, at_ns=AT_NS,
    reason="cannot be decoded", points=3, key=b"", value=b"\x00" * 100_000,
)  # fmt: skip
# Tables and targets of materialized views.
TABLES = (
    *("run_events", "attempts", "params", "heartbeats", "heartbeat_last", "logs"),
    *("metrics", "metric_rollup", "batches", "writer_progress", "dead_letters"),
    *("artifacts", "artifact_stamps", "artifact_heads", "checkpoints"),
)


def everything(points: Points) -> list[Any]:
    # Heartbeats expire after 30 days, so these are written as if they came much later.
    metrics = points([(0, 0, 1.0), (1, 1, 2.0), (2, 1, 3.0)])
    stored = artifact_event(event="complete", version_at_ns=5)
    told = [run_event(), param_event(), heartbeat(), log_event(), stored, checkpoint_event()]
    return [*told, metrics, LETTER]


def rows_of(feed: Any) -> dict[str, int]:
    return {table: feed.row(f"SELECT count() FROM {table}")[0] for table in TABLES}


LATER_NS = 4_000_000_000_000_000_000


def test_write_with_the_same_token_stores_one_copy(feed: Any, points: Points) -> None:
    """This holds in every table and every target of a materialized view, without FINAL."""
    feed.write(*everything(points), token="w:1", append_at_ns=LATER_NS)
    once = rows_of(feed)
    feed.write(*everything(points), token="w:1", append_at_ns=LATER_NS)
    assert rows_of(feed) == once
    assert all(once.values()), once
    assert once["metrics"] == 3


def test_rollup_is_exact_after_retried_writes(feed: Any, points: Points) -> None:
    """Last, minimum and maximum are as if no write had been repeated."""
    for token in ("w:1", "w:1", "w:2"):
        feed.write(points([(0, 5, 4.0), (1, 6, float("inf")), (2, 7, -1.0)]), token=token)
    found = feed.row("SELECT step, value, min, max FROM v_latest")
    assert found == (7, -1.0, -1.0, 4.0)


def test_views_collapse_a_replay_under_another_token(feed: Any, points: Points) -> None:
    """Views deduplicate by the natural key: they show every point and row once."""
    for token in ("w:1", "w:2"):
        feed.write(*everything(points), token=token, append_at_ns=LATER_NS)
    for view, count in {"v_metrics": 3, "v_logs": 1, "v_dead_letters": 1, "v_params": 1}.items():
        assert feed.row(f"SELECT count() FROM {view}") == (count,), view
    assert feed.row("SELECT accepted, stored, pending FROM v_completeness") == (4, 3, 1)


def test_points_of_many_names_writers_and_runs_read_back_exactly(feed: Any) -> None:
    """One block of many batches reads back exactly, dictionaries beyond one byte included."""
    batches, wanted = [], set()
    for number in range(4):
        names = [f"m{number}/{i}" for i in range(100)]
        run, writer = f"run-{number % 2}", f"w{number}"
        batches.append(
            MetricBatch(
                project="p",
                run_id=run,
                attempt="a",
                writer=writer,
                rank=number,
                batch_seq=0,
                names=names,
                call_seq=[0],
                call_step=[number],
                call_at_ms=[AT_NS // 1_000_000],
                call_n=[100],
                name_idx=list(range(100)),
                value=[number + i / 8 for i in range(100)],
            )
        )
        wanted |= {(run, names[i], number, number, number + i / 8) for i in range(100)}
    feed.write(*batches)
    assert set(feed.rows("SELECT run_id, metric, rank, step, value FROM v_metrics")) == wanted


def test_stored_numbers_keep_every_bit(feed: Any, points: Points) -> None:
    """NaN, infinities, negative zero, large steps and seqs read back unchanged."""
    values = [float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1.7976931348623157e308]
    steps = [-(2**63), -1, 0, 2**53 + 1, 2**63 - 2, 2**63 - 1]
    feed.write(
        points([(2**62 + i, s, v) for i, (s, v) in enumerate(zip(steps, values, strict=True))])
    )
    found = feed.rows("SELECT step, seq, reinterpretAsUInt64(value) FROM v_metrics ORDER BY seq")
    bits = feed.rows(
        "SELECT reinterpretAsUInt64(arrayJoin([nan, inf, -inf, -0.0, 5e-324, "
        "1.7976931348623157e308]))"
    )
    assert [s for s, _, _ in found] == steps
    assert [q for _, q, _ in found] == [2**62 + i for i in range(6)]
    assert {b for _, _, b in found[1:]} == {b for (b,) in bits[1:]}


def test_dead_letter_row_keeps_64_kib_and_the_true_length(feed: Any) -> None:
    """The table keeps 64 KiB and the true length; the file or topic keeps the rest."""
    feed.write(LETTER)
    found = feed.row(
        "SELECT length(value), value_bytes, points, offset, last_offset FROM v_dead_letters"
    )
    assert found == (rows.DEAD_VALUE_BYTES_MAX, 100_000, 3, 7, 9)


def test_row_with_invalid_unicode_is_rejected_before_any_write(feed: Any) -> None:
    """RowsRejected names the row; nothing of the batch was written yet."""
    bad = replace(log_event(), text="\ud800")
    with pytest.raises(RowsRejected) as caught:
        feed.write(log_event(seq=10), bad)
    assert [(r.kind, r.index) for r in caught.value.rejections] == [("log", 1)]
    assert feed.row("SELECT count() FROM logs") == (0,)


def test_check_is_fatal_when_a_migration_is_missing(feed: Any) -> None:
    """check() names the migration and the command to run."""
    feed.client.command("TRUNCATE TABLE schema_migrations")
    with pytest.raises(Fatal, match=r"0001_points.*runwire migrate"):
        feed.sink.check()


def test_write_is_fatal_when_a_table_is_missing(feed: Any) -> None:
    """The sentence names the command that makes the tables."""
    feed.client.command("DROP TABLE logs SYNC")
    with pytest.raises(Fatal, match="runwire migrate"):
        feed.write(log_event())


def test_check_is_retryable_when_the_server_is_unreachable() -> None:
    """The sentence has the address and no password."""
    from runwire_consumers.clickhouse.sink import ClickHouseSink

    with pytest.raises(Retryable, match=r"http://127\.0\.0\.1:1/runwire does not answer") as caught:
        ClickHouseSink("http://writer:secret@127.0.0.1:1/runwire").check()
    assert "secret" not in str(caught.value)
