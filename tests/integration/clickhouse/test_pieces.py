"""Batches that are too large for the store or a proxy before it: written in pieces, each once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse import refusals
from runwire_consumers.clickhouse.client import connect
from runwire_consumers.clickhouse.refusals import PIECES_TEXT_MAX, VIEWED_TABLES
from runwire_consumers.clickhouse.sink import ClickHouseSink
from runwire_consumers.core.batch import Batch, BatchBuilder, decode_record
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.errors import PiecesNeeded, Retryable, RowsRejected
from support.body_limit import BodyLimit
from support.builders import log_event, metric_batch, record, run_event

pytestmark = pytest.mark.engine

OPEN = 1 << 40
CALLS, LOGS = 4_000, 900


class Killed(BaseException):
    """Stands for SIGKILL where a test must live on."""


def large_batch(token: str) -> Batch:
    """One large metric record, some small ones, and many log lines."""
    builder = BatchBuilder()
    events: list[Any] = [run_event(), metric_batch(CALLS)]
    events += [metric_batch(5, first=CALLS + 5 * n, batch_seq=n + 1) for n in range(10)]
    events += [log_event(seq=n, text=f"line {n} " + "x" * 40) for n in range(LOGS)]
    for offset, event in enumerate(events):
        item = record(event, offset)
        builder.add(item, decode_record(item))
    return builder.close(token)


def stored(client: Client) -> dict[str, int]:
    tables = ("metrics", "logs", "run_events", "batches")
    return {t: int(client.query(f"SELECT count() FROM {t}").result_rows[0][0]) for t in tables}


EXPECTED = {"metrics": 2 * CALLS + 100, "logs": LOGS, "run_events": 1, "batches": 11}


def dying(url: str, after: int) -> Client:
    """A client whose process dies after this many inserts."""
    client = connect(url)
    insert, left = client.raw_insert, [after]

    def raw_insert(*arguments: Any, **settings: Any) -> Any:
        summary = insert(*arguments, **settings)
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return summary

    client.raw_insert = raw_insert  # type: ignore[method-assign]
    return client


def write_through(sink: ClickHouseSink, batch: Batch, keep: Callable[[Batch], None]) -> Batch:
    """Write as the worker does: cuts are kept first, refusals that may pass are tried again."""
    while True:
        try:
            sink.write(batch)
            return batch
        except PiecesNeeded as need:
            batch = batch.in_pieces(need.pieces)
            keep(batch)
        except RowsRejected as error:
            batch = batch.without(error.rejections)
        except Retryable:
            continue


def test_batch_above_a_proxys_limit_is_stored_once_in_pieces(clickhouse_url: str) -> None:
    """A body limit far below the batch: every row is stored once, and a repetition adds none."""
    with BodyLimit(lambda: clickhouse_url, 20_000) as proxy:
        sink = ClickHouseSink(proxy.url)
        batch = write_through(sink, large_batch("w:1"), lambda _: None)
        assert set(batch.pieces.sizes) == {"metrics", "logs"}
        assert not batch.dead
        sink.write(batch)
        sink.close(Deadline(1))
    client = connect(clickhouse_url)
    assert stored(client) == EXPECTED
    assert client.query("SELECT count() FROM v_metrics").result_rows[0][0] == EXPECTED["metrics"]
    client.close()


def test_kills_between_pieces_and_changed_limits_store_rows_once(
    clickhouse_url: str, seed: int
) -> None:
    """Each life dies after a random insert, the limit changes, and the next one goes on exactly."""
    rng = random.Random(f"{seed} pieces")
    intent = [large_batch("w:1")]

    def keep(batch: Batch) -> None:
        intent[0] = batch

    with BodyLimit(lambda: clickhouse_url, 20_000) as proxy:
        lives = 0
        while True:
            # Only ever higher: see core/pieces.py about a limit that sinks below what was taken.
            proxy.limit = min(OPEN, int(proxy.limit * rng.choice((1, 1, 1.5, 3))))
            after = rng.randint(0, 8 + 8 * lives)
            opened: list[Client] = []

            def open_client(url: str, after: int = after, opened: list[Client] = opened) -> Client:
                opened.append(dying(url, after))
                return opened[0]

            sink = ClickHouseSink(proxy.url, open_client=open_client)
            lives += 1
            try:
                write_through(sink, intent[0], keep)
                break
            except Killed:
                opened[0].close()
        sink.close(Deadline(1))
    assert lives > 1
    client = connect(clickhouse_url)
    assert stored(client) == EXPECTED
    client.close()


def test_batch_above_the_memory_limit_is_stored_once_in_pieces(clickhouse_url: str) -> None:
    """The server's own refusal cuts the batch after a few tries."""

    def small_memory(url: str) -> Client:
        client = connect(url)
        client.set_client_setting("max_memory_usage", 40_000_000)
        return client

    builder = BatchBuilder()
    item = record(metric_batch(400_000), 0)
    builder.add(item, decode_record(item))
    sink = ClickHouseSink(clickhouse_url, open_client=small_memory)
    batch = write_through(sink, builder.close("w:1"), lambda _: None)
    sink.close(Deadline(1))
    assert "metrics" in batch.pieces.sizes
    client = connect(clickhouse_url)
    assert client.query("SELECT count() FROM metrics").result_rows[0][0] == 800_000
    client.close()


def test_row_that_a_proxy_never_takes_becomes_a_dead_letter(clickhouse_url: str) -> None:
    """One event larger than the limit is set aside with the reason; its neighbours are stored."""
    builder = BatchBuilder()
    for seq in range(40):
        text = "y" * (500_000 if seq == 17 else 10)
        item = record(log_event(seq=seq, text=text), seq)
        builder.add(item, decode_record(item))
    with BodyLimit(lambda: clickhouse_url, 200_000) as proxy:
        sink = ClickHouseSink(proxy.url)
        batch = write_through(sink, builder.close("w:1"), lambda _: None)
        sink.close(Deadline(1))
    (letter,) = batch.dead
    assert letter.offset == 17
    assert "takes no block of this size" in letter.reason
    client = connect(clickhouse_url)
    assert client.query("SELECT count() FROM logs").result_rows[0][0] == 39
    client.close()


def test_tables_that_views_read_are_the_ones_never_cut_by_the_server(clickhouse_url: str) -> None:
    """The list in the code has exactly the sources of the database's materialized views."""
    client = connect(clickhouse_url)
    answer = client.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() "
        "AND notEmpty(dependencies_table)"
    )
    client.close()
    assert {name for (name,) in answer.result_rows} == set(VIEWED_TABLES)
    assert refusals.REFUSALS_MAX > 1


def test_many_refused_rows_leave_the_intent_small_and_lose_nothing(
    clickhouse_url: str, seed: int
) -> None:
    """Each row is stored or set aside, never both; the pieces fit the metadata of an offset."""
    rng = random.Random(f"{seed} refused")
    bad = set(rng.sample(range(300), 70))
    client = connect(clickhouse_url)
    client.command("ALTER TABLE logs ADD CONSTRAINT no_secrets CHECK text != 'secret'")
    builder = BatchBuilder()
    for seq in range(300):
        item = record(log_event(seq=seq, text="secret" if seq in bad else f"line {seq}"), seq)
        builder.add(item, decode_record(item))
    sink = ClickHouseSink(clickhouse_url)
    batch = write_through(sink, builder.close("w:1"), lambda _: None)
    sink.close(Deadline(1))
    assert len(str(batch.pieces)) <= PIECES_TEXT_MAX
    aside = {letter.offset for letter in batch.dead}
    assert bad <= aside
    kept = {seq for (seq,) in client.query("SELECT seq FROM logs").result_rows}
    assert kept == set(range(300)) - aside
    assert stored(client)["logs"] == len(kept)
    client.close()


def test_row_that_the_server_refuses_becomes_a_dead_letter(clickhouse_url: str) -> None:
    """A value that violates a constraint is set aside alone; the others are stored once."""
    client = connect(clickhouse_url)
    client.command("ALTER TABLE logs ADD CONSTRAINT no_secrets CHECK text != 'secret'")
    builder = BatchBuilder()
    for seq in range(100):
        item = record(log_event(seq=seq, text="secret" if seq in (3, 64) else f"line {seq}"), seq)
        builder.add(item, decode_record(item))
    sink = ClickHouseSink(clickhouse_url)
    batch = write_through(sink, builder.close("w:1"), lambda _: None)
    sink.write(batch)
    sink.close(Deadline(1))
    assert [letter.offset for letter in batch.dead] == [3, 64]
    assert all("no_secrets" in letter.reason for letter in batch.dead)
    assert stored(client)["logs"] == 98
    client.close()
