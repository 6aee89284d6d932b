"""Completeness from the books of writers: what is stored is known without a row per batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from runwire_consumers.clickhouse.sink import ClickHouseSink
from runwire_consumers.core.clock import Deadline
from runwire_schemas.events import MetricBatch
from support.builders import AT_NS

pytestmark = pytest.mark.engine

STORED = "SELECT rank, stored FROM v_completeness ORDER BY rank"


def batch_of(number: int, points: int, before: int, rank: int = 0) -> MetricBatch:
    return MetricBatch(
        project="tests",
        run_id="run-1",
        attempt="attempt-1",
        writer=f"w{rank}",
        rank=rank,
        batch_seq=number,
        points_before=before,
        names=["loss"],
        call_seq=[before + i for i in range(points)],
        call_step=[before + i for i in range(points)],
        call_at_ms=[AT_NS // 1_000_000 + before + i for i in range(points)],
        call_n=[1] * points,
        name_idx=[0] * points,
        value=[1.0] * points,
    )


def batches_of(sizes: Sequence[int], rank: int = 0) -> list[MetricBatch]:
    return [batch_of(i, size, sum(sizes[:i]), rank) for i, size in enumerate(sizes)]


def stop_merges(feed: Any) -> None:
    for table in ("writer_progress", "batches", "metrics"):
        feed.client.command(f"SYSTEM STOP MERGES {table}")


def restart(feed: Any) -> None:
    feed.sink.close(Deadline(1))
    feed.sink = ClickHouseSink(feed.url)


def test_batches_without_a_gap_are_counted_without_their_rows(feed: Any) -> None:
    """Also across a restart of the worker: what is whole is read from the store."""
    first, second, third = batches_of([3, 4, 5])
    feed.write(first, second)
    restart(feed)
    feed.write(third)
    assert feed.rows(STORED) == [(0, 12)]
    feed.client.command("TRUNCATE TABLE batches")
    assert feed.rows(STORED) == [(0, 12)]


def test_batches_behind_a_gap_are_counted_by_their_rows(feed: Any) -> None:
    """A number that never came, and points that no batch has, are not counted as stored."""
    first, _, third, fourth = batches_of([3, 4, 5, 6])
    feed.write(first, third)
    feed.write(fourth)
    feed.write(batch_of(0, 3, 0, rank=1), batch_of(1, 2, 8, rank=1))
    assert feed.rows(STORED) == [(0, 14), (1, 5)]


def test_batches_of_senders_that_do_not_count_are_counted_by_their_rows(feed: Any) -> None:
    """Messages of an older version say no number of points before them."""
    feed.write(batch_of(0, 3, -1), batch_of(1, 2, -1))
    assert feed.rows(STORED) == [(0, 5)]


def test_batch_that_fills_a_gap_later_is_counted_once(feed: Any) -> None:
    """A letter that is replayed comes after the batches that followed it."""
    stop_merges(feed)
    first, second, third, fourth = batches_of([3, 4, 5, 6])
    feed.write(first, third)
    for token in ("late:1", "late:2"):
        feed.write(second, token=token)
    assert feed.rows(STORED) == [(0, 12)]
    feed.write(fourth)
    assert feed.rows(STORED) == [(0, 18)]


@pytest.mark.parametrize("round_number", range(3))
def test_stored_equals_the_points_that_came_for_random_histories(
    feed: Any, seed: int, round_number: int
) -> None:
    """Replays under other tokens, restarts, gaps and lost records change no count."""
    rng = random.Random(seed + round_number)
    stop_merges(feed)
    came: dict[tuple[int, int], int] = {}
    histories = {}
    for rank in range(3):
        history = batches_of([rng.randint(1, 4) for _ in range(6)], rank)
        if rank:  # rank 0 has no gap
            del history[rng.randrange(6)]
        if rank == 2:
            history[-1] = batch_of(history[-1].batch_seq, 2, 40, rank)
        histories[rank] = history
    while any(histories.values()):
        rank = rng.choice([rank for rank, history in histories.items() if history])
        size = rng.randint(1, 2)
        written, histories[rank] = histories[rank][:size], histories[rank][size:]
        for _ in range(rng.choice([1, 1, 2])):
            if rng.random() < 0.3:
                restart(feed)
            feed.write(*written)
        came |= {(rank, batch.batch_seq): len(batch.value) for batch in written}
    wanted = [(rank, sum(n for (of, _), n in came.items() if of == rank)) for rank in range(3)]
    assert feed.rows(STORED) == wanted
    feed.client.command("TRUNCATE TABLE batches")
    assert feed.rows(STORED)[0] == wanted[0]
