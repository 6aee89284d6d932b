"""The contract of sinks: the rows of a token are stored once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from runwire_consumers.core.batch import Batch, BatchBuilder, decode_record
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.dead_letters import letter_of
from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.sink import MemorySink, Sink, StoredBatches
from support.builders import (
    AT_NS,
    artifact_event,
    bad_record,
    batch_of,
    checkpoint_event,
    heartbeat,
    log_event,
    metric_batch,
    metric_record,
    param_event,
    record,
    run_event,
)

TODAY_NS = time.time_ns()
TABLES = {
    "run": "run_events",
    "param": "params",
    "heartbeat": "heartbeats",
    "log": "logs",
    "artifact": "artifacts",
    "checkpoint": "checkpoints",
    "metric": "metrics",
    "deadletter": "dead_letters",
}


@dataclass
class Rig:
    """A kind of sink: opens it, and counts what is stored."""

    open: Callable[[], Sink]
    count: Callable[[str], int]


@pytest.fixture(
    scope="module", params=["memory", pytest.param("clickhouse", marks=pytest.mark.engine)]
)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of sink; module scope, so that the server is up before any test looks around."""
    if request.param == "clickhouse":
        request.getfixturevalue("clickhouse_server")
    return str(request.param)


@pytest.fixture
def rig(kind: str, request: pytest.FixtureRequest) -> Rig:
    if kind == "memory":
        store = StoredBatches()
        return Rig(lambda: MemorySink(store), store.count)
    from runwire_consumers.clickhouse.client import connect
    from runwire_consumers.clickhouse.sink import ClickHouseSink

    url = request.getfixturevalue("clickhouse_url")

    def count(kind: str) -> int:
        client = connect(url)
        try:
            return int(client.query(f"SELECT count() FROM {TABLES[kind]}").result_rows[0][0])
        finally:
            client.close()

    return Rig(lambda: ClickHouseSink(url), count)


def full_batch(token: str = "w:1") -> Batch:
    """A batch with rows of every kind."""
    builder = BatchBuilder()
    # Old heartbeats have no value: the store may drop them, so these are of today.
    events = [run_event(), param_event(), heartbeat(at_ns=TODAY_NS), log_event()]
    events += [artifact_event(), checkpoint_event()]
    for offset, event in enumerate(events):
        item = record(event, offset, append_at_ns=TODAY_NS)
        builder.add(item, decode_record(item))
    item = record(metric_batch(50), 0)
    builder.add(item, decode_record(item))
    builder.add_bad(bad_record(0), "cannot be decoded: poison")
    # What an agent found in a spool comes as a record of its own.
    item = record(letter_of(bad_record(1), "a flipped bit", at_ns=AT_NS), 9, partition="d")
    builder.add(item, decode_record(item))
    return builder.close(token)


def counts(rig: Rig) -> dict[str, int]:
    return {kind: rig.count(kind) for kind in TABLES}


def written(rig: Rig, *batches: Batch) -> None:
    sink = rig.open()
    for batch in batches:
        sink.write(batch)
    sink.close(Deadline(5))


ONE_EACH = {**dict.fromkeys(TABLES, 1), "metric": 100, "deadletter": 2}


def test_written_batch_is_readable_when_write_returns(rig: Rig) -> None:
    """When write returns, every row of every kind is stored."""
    sink = rig.open()
    sink.check()
    sink.write(full_batch())
    assert counts(rig) == ONE_EACH
    sink.close(Deadline(5))


def test_writing_the_same_token_again_changes_nothing(rig: Rig) -> None:
    """A repetition in the same process and one in the next process store no row."""
    written(rig, full_batch(), full_batch())
    written(rig, full_batch())
    assert counts(rig) == ONE_EACH


def test_batch_with_another_token_adds_its_rows(rig: Rig) -> None:
    """Tokens are the identity of batches: a new one adds rows, an old one in between does not."""
    first = batch_of([metric_record(0, calls=3)], "w:1")
    second = batch_of([metric_record(3, calls=3)], "w:2")
    written(rig, first, second, first)
    assert rig.count("metric") == 12


def test_round_writes_all_its_batches_once_prepared_or_not(rig: Rig) -> None:
    """Rounds may repeat batches in other company, with blocks built ahead or at the write."""
    batches = [batch_of([metric_record(3 * n, calls=3)], f"w:{n}") for n in range(3)]
    sink = rig.open()
    assert sink.write_round([]) == {}
    assert sink.write_round(batches[:2]) == {}
    prepared = sink.prepare([batch.named("") for batch in batches[1:]])
    again = [batch.named(f"w:{n}") for n, batch in enumerate(prepared, 1)]
    assert sink.write_round(again) == {}
    assert rig.count("metric") == 18
    sink.close(Deadline(1))


def test_batch_without_rows_is_written_like_others(rig: Rig) -> None:
    """A batch whose rows were all rejected still has to be committed."""
    written(rig, batch_of([]))
    assert set(counts(rig).values()) == {0}


def test_sink_can_be_closed_twice_without_error(rig: Rig) -> None:
    """The worker closes its sink in every way of ending, so a second close has no effect."""
    sink = rig.open()
    sink.close(Deadline(1))
    sink.close(Deadline(0))


@pytest.mark.engine
def test_sink_raises_retryable_when_nobody_answers() -> None:
    """An unreachable engine is Retryable, and the message does not contain the password."""
    from runwire_consumers.clickhouse.sink import ClickHouseSink

    sink = ClickHouseSink("http://writer:secret@127.0.0.1:9/runwire")
    for action in (sink.check, lambda: sink.write(full_batch())):
        with pytest.raises(Retryable) as caught:
            action()
        assert caught.value.after_s > 0
        assert "secret" not in str(caught.value)
    sink.close(Deadline(1))
