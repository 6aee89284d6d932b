"""Rounds of several batches: few inserts, and points stored exactly once whatever dies."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse import native
from runwire_consumers.clickhouse.client import connect, insert_block
from runwire_consumers.clickhouse.sink import TOMBSTONES_REFRESH_S, ClickHouseSink
from runwire_consumers.clickhouse.tombstones import hide_run
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import Deadline, MemoryClock
from runwire_consumers.core.dead_letters import letter_of
from runwire_consumers.core.errors import PiecesNeeded, Retryable, RowsRejected
from support.body_limit import BodyLimit
from support.builders import AT_NS, bad_record, batch_of, log_event, metric_batch, record, run_event

pytestmark = pytest.mark.engine

LETTER = letter_of(bad_record(7), "a flipped bit", at_ns=AT_NS)
PARTITIONS = 5
CALLS = 30


class Killed(BaseException):
    """Stands for SIGKILL where a test must live on."""


def partition_of(number: int, *, first: int = 0, calls: int = CALLS) -> Batch:
    """The batch of one partition: two records of a writer of its own."""
    writer = f"{number:032x}"
    batches = [
        metric_batch(calls, first=first, writer=writer, rank=number, batch_seq=2 * first),
        metric_batch(5, first=first + calls, writer=writer, rank=number, batch_seq=2 * first + 1),
    ]
    token = f"m:{number}:{first}"
    return batch_of([record(one, first + n) for n, one in enumerate(batches)], token)


def round_of(first: int = 0) -> list[Batch]:
    return [partition_of(number, first=first) for number in range(PARTITIONS)]


def watched(url: str, seen: Counter[str], after: Callable[[str], None] = lambda _: None) -> Client:
    """A client that counts its inserts by table."""
    client = connect(url)
    insert = client.raw_insert

    def raw_insert(table: str, *arguments: Any, **settings: Any) -> Any:
        summary = insert(table, *arguments, **settings)
        seen[table] += 1
        after(table)
        return summary

    client.raw_insert = raw_insert  # type: ignore[method-assign]
    return client


def numbers(client: Client, *queries: str) -> list[int]:
    return [int(client.query(f"SELECT {query}").first_row[0]) for query in queries]


def test_round_inserts_each_small_table_once(clickhouse_url: str) -> None:
    """Points go in one insert per partition, rollup and books in one for all; again adds none."""
    seen: Counter[str] = Counter()
    sink = ClickHouseSink(clickhouse_url, open_client=lambda url: watched(url, seen))
    assert sink.write_round(round_of()) == {}
    small = ("metric_rollup", "batches", "writer_progress", "attempts")
    assert seen == {"metrics": PARTITIONS, **dict.fromkeys(small, 1)}
    assert sink.write_round(sink.prepare(round_of())) == {}
    sink.close(Deadline(1))
    client = connect(clickhouse_url)
    points = PARTITIONS * 2 * (CALLS + 5)
    found = numbers(
        client,
        "count() FROM metrics",
        "count() FROM batches",
        "sum(points) FROM batches",
        "sum(stored) FROM v_completeness",
    )
    assert found == [points, 2 * PARTITIONS, points, points]
    client.close()


def test_only_the_partition_above_a_limit_is_cut_into_pieces(clickhouse_url: str) -> None:
    """The others are stored by the same call, and later tries leave them alone."""
    seen: Counter[str] = Counter()
    batches = [*round_of(), partition_of(PARTITIONS, calls=4_000)]
    with BodyLimit(lambda: clickhouse_url, 40_000) as proxy:
        sink = ClickHouseSink(proxy.url, open_client=lambda url: watched(url, seen))
        while True:
            refusals = sink.write_round(batches)
            if any(isinstance(error, PiecesNeeded) for error in refusals.values()):
                break
        (token,) = refusals
        assert token == batches[-1].token
        assert seen["metrics"] == PARTITIONS
        need = refusals[token]
        while isinstance(need, Retryable):
            batch = batches[-1]
            batches[-1] = batch.in_pieces(need.pieces) if isinstance(need, PiecesNeeded) else batch
            need = sink.write_round([batches[-1]]).get(token)
        sink.close(Deadline(1))
    client = connect(clickhouse_url)
    points = PARTITIONS * 2 * (CALLS + 5) + 2 * 4_005
    found = numbers(client, "count() FROM metrics", "sum(points) FROM batches FINAL")
    assert found == [points, points]
    client.close()


def test_joint_block_that_is_refused_is_sent_batch_by_batch(clickhouse_url: str) -> None:
    """A row that violates a constraint is set aside; the other partitions' logs are stored."""
    client = connect(clickhouse_url)
    client.command("ALTER TABLE logs ADD CONSTRAINT no_secrets CHECK text != 'secret'")
    batches = [
        batch_of(
            [
                record(log_event(seq=10 * n + i, text="secret" if (n, i) == (1, 3) else "fine"), i)
                for i in range(5)
            ],
            f"l:{n}",
        )
        for n in range(3)
    ]
    sink = ClickHouseSink(clickhouse_url)
    lost: list[int] = []
    while batches:
        refusals = sink.write_round(batches)
        again = [batch for batch in batches if batch.token in refusals]
        batches = []
        for batch in again:
            error = refusals[batch.token]
            if isinstance(error, RowsRejected):
                batches.append(batch.without(error.rejections))
                lost += [letter.offset for letter in batches[-1].dead]
            else:
                assert isinstance(error, PiecesNeeded)
                batches.append(batch.in_pieces(error.pieces))
    sink.close(Deadline(1))
    assert lost == [3]
    assert numbers(client, "count() FROM logs", "count() FROM dead_letters") == [14, 1]
    client.close()


def test_kills_within_rounds_and_other_groups_afterwards_store_points_once(
    clickhouse_url: str, seed: int
) -> None:
    """Each life dies after a random insert; what is left comes back in random rounds."""
    rng = random.Random(f"{seed} rounds")
    left = [
        *round_of(),
        replace(batch_of([record(run_event(), 0)], "r:0"), dead=[LETTER]),
        batch_of([record(log_event(seq=n), n) for n in range(9)], "l:0"),
    ]
    lives = 0
    while left:
        rng.shuffle(left)
        group = left[: rng.randint(1, len(left))]
        allowed = [rng.randint(0, 3 + 2 * lives)]
        lock = threading.Lock()

        def die(_: str, allowed: list[int] = allowed, lock: threading.Lock = lock) -> None:
            with lock:
                allowed[0] -= 1
            if allowed[0] < 0:
                raise Killed

        sink = ClickHouseSink(
            clickhouse_url, open_client=lambda url, die=die: watched(url, Counter(), die)
        )
        lives += 1
        try:
            ready = rng.choice((list[Batch], sink.prepare))(group)
            assert sink.write_round(ready) == {}
            left = [batch for batch in left if batch not in group]
        except Killed:
            pass
        finally:
            sink.close(Deadline(1))
    client = connect(clickhouse_url)
    points = PARTITIONS * 2 * (CALLS + 5)
    found = numbers(
        client,
        "count() FROM metrics",
        "count() FROM metrics FINAL",
        "sum(points) FROM batches FINAL",
        "uniqExact(points, first_seq, last_seq, writer, batch_seq) FROM batches",
        "count() FROM logs FINAL",
        "count() FROM dead_letters FINAL",
        "count() FROM v_runs",
    )
    assert found == [points, points, points, 2 * PARTITIONS, 9, 1, 1]
    client.close()


def test_compressed_block_is_stored_as_it_was(clickhouse_url: str) -> None:
    """What goes to a server elsewhere through LZ4 reads back unchanged, and once."""
    client = connect(clickhouse_url)
    client.command("CREATE TABLE squares (a Int64) ENGINE = MergeTree ORDER BY a "
                   "SETTINGS non_replicated_deduplication_window = 10")  # fmt: skip
    block = native.block([native.numbers("a", "Int64", [n * n for n in range(1000)])])
    for _ in range(2):
        insert_block(client, "squares", block, token="t", is_compressed=True)
    assert numbers(client, "count() FROM squares", "sum(a) FROM squares") == [1000, 332_833_500]
    client.close()


def test_round_of_very_many_runs_is_stored_after_a_restart(clickhouse_url: str) -> None:
    """The past of all its writers is asked for at once: the query is longer than 256 KiB."""
    runs = [f"{'a-name-that-people-choose-' * 8}{number:05}" for number in range(1300)]
    batches = [
        metric_batch(1, run_id=run, writer=f"{number:032x}", batch_seq=1)
        for number, run in enumerate(runs)
    ]
    sink = ClickHouseSink(clickhouse_url)
    records = [record(one, number) for number, one in enumerate(batches)]
    assert sink.write_round([batch_of(records, "m:0")]) == {}
    sink.close(Deadline(1))
    client = connect(clickhouse_url)
    assert numbers(client, "uniqExact(run_id) FROM metrics") == [len(runs)]
    client.close()


def test_blocks_built_ahead_leave_out_a_run_deleted_before_the_write(clickhouse_url: str) -> None:
    """Retries may last for hours, until its mark is gone: nothing would hide such rows then."""
    clock = MemoryClock()
    sink = ClickHouseSink(clickhouse_url, clock=clock)
    client = connect(clickhouse_url)
    sink.check()
    batches = [
        batch_of([record(metric_batch(2, run_id=run, writer=f"{number:032x}"), 0)], f"m:{number}")
        for number, run in enumerate(("deleted", "alive"))
    ]
    prepared = sink.prepare(batches)
    hide_run(client, "tests", "deleted")
    clock.advance(TOMBSTONES_REFRESH_S)
    assert sink.write_round(prepared) == {}
    sink.close(Deadline(1))
    assert client.query("SELECT run_id, count() FROM metrics GROUP BY run_id").result_rows == [
        ("alive", 4)
    ]
    assert sink.rows_of_deleted_runs == {"metric": 4}
    client.close()
