"""Contract of every sink: the rows of one token count once, in every table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from runwire_consumers.core.batch import Batch, BatchBuilder, BatchLimits
from runwire_consumers.core.clock import MemoryClock
from runwire_consumers.core.dead_letters import letter_of
from runwire_consumers.core.deadline import Deadline
from runwire_consumers.core.decoding import decode_record
from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.sink import MemorySink, MemoryStore, Sink
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
        store = MemoryStore()
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
    builder = BatchBuilder(BatchLimits(), MemoryClock())
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


def test_rows_of_a_batch_are_readable_when_write_returns(rig: Rig) -> None:
    """When `write` returns, every row of every kind can be queried."""
    sink = rig.open()
    sink.check()
    sink.write(full_batch())
    assert counts(rig) == ONE_EACH
    sink.close(Deadline(5))


def test_second_write_with_the_same_token_changes_nothing(rig: Rig) -> None:
    """A repeat under the same token stores nothing, in the same process and in the next one."""
    written(rig, full_batch(), full_batch())
    written(rig, full_batch())
    assert counts(rig) == ONE_EACH


def test_write_with_another_token_adds_rows(rig: Rig) -> None:
    """Only the token decides: other tokens add rows, also between repeats of the first."""
    first = batch_of([metric_record(0, calls=3)], "w:1")
    second = batch_of([metric_record(3, calls=3)], "w:2")
    written(rig, first, second, first)
    assert rig.count("metric") == 12


def test_write_accepts_a_batch_without_rows(rig: Rig) -> None:
    """A batch whose rows were all rejected is written, so that its offsets can be committed."""
    written(rig, batch_of([]))
    assert set(counts(rig).values()) == {0}


def test_close_may_be_called_a_second_time(rig: Rig) -> None:
    """A second `close`, even without time left, does nothing."""
    sink = rig.open()
    sink.close(Deadline(1))
    sink.close(Deadline(0))


@pytest.mark.engine
def test_unreachable_engine_raises_retryable_without_password() -> None:
    """An unreachable engine raises Retryable, never Fatal, and the sentence hides the password."""
    from runwire_consumers.clickhouse.sink import ClickHouseSink

    sink = ClickHouseSink("http://writer:secret@127.0.0.1:9/runwire")
    for action in (sink.check, lambda: sink.write(full_batch())):
        with pytest.raises(Retryable) as caught:
            action()
        assert caught.value.after_s > 0
        assert "secret" not in str(caught.value)
    sink.close(Deadline(1))
