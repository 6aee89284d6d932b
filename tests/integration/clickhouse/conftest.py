"""A migrated database per test, and a short way to fill it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from runwire_consumers.clickhouse.client import connect
from runwire_consumers.clickhouse.sink import ClickHouseSink
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import Deadline
from runwire_schemas.events import MetricBatch, RunEvent
from runwire_schemas.metric_columns import columns_of
from support.builders import AT_NS, WRITER, run_event

MS = 1_000_000
SECOND = 1_000_000_000
# (seq, step, value) of one metric.
Point = tuple[int, int, float]


class Feed:
    """Writes events through the sink, each write under a token of its own, and runs queries."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sink = ClickHouseSink(url)
        self.client = connect(url)
        self._batches = 0

    def write(self, *events: Any, token: str | None = None, append_at_ns: int = AT_NS) -> Batch:
        self._batches += 1
        kinds = {"RunEvent": "run", "ParamEvent": "param", "Heartbeat": "heartbeat"}
        kinds |= {"LogEvent": "log", "ArtifactEvent": "artifact", "CheckpointEvent": "checkpoint"}
        by_kind: dict[str, list[Any]] = {}
        for event in events:
            name = type(event).__name__
            if name in kinds:
                by_kind.setdefault(kinds[name], []).append(event)
        batch = Batch(
            token=token or f"test:{self._batches}",
            spans={},
            append_at_ns=append_at_ns,
            events=by_kind,
            metrics=[columns_of(e) for e in events if isinstance(e, MetricBatch)],
            dead=[e for e in events if type(e).__name__ == "DeadLetter"],
        )
        self.sink.write(batch)
        return batch

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.client.query(query).result_rows]

    def row(self, query: str) -> tuple[Any, ...]:
        (found,) = self.rows(query)
        return found

    def close(self) -> None:
        self.sink.close(Deadline(1))
        self.client.close()


@pytest.fixture
def feed(clickhouse_url: str) -> Iterator[Feed]:
    made = Feed(clickhouse_url)
    yield made
    made.close()


@pytest.fixture
def points() -> Callable[..., MetricBatch]:
    return points_of


def points_of(wanted: Sequence[Point], *, name: str = "loss", **overrides: Any) -> MetricBatch:
    """One metric batch of one metric; its batch_seq is the first seq unless given."""
    fields: dict[str, Any] = {
        "project": "tests",
        "run_id": "run-1",
        "attempt": "attempt-1",
        "writer": WRITER,
        "rank": 0,
        "batch_seq": wanted[0][0],
        "names": [name],
        "call_seq": [seq for seq, _, _ in wanted],
        "call_step": [step for _, step, _ in wanted],
        "call_at_ms": [AT_NS // MS + seq for seq, _, _ in wanted],
        "call_n": [1] * len(wanted),
        "name_idx": [0] * len(wanted),
        "value": [value for _, _, value in wanted],
    }
    return MetricBatch(**{**fields, **overrides})


@pytest.fixture
def attempts() -> tuple[RunEvent, RunEvent]:
    """The starts of two attempts, a minute apart."""
    return (
        run_event(attempt="attempt-1", writer="w1"),
        run_event(attempt="attempt-2", writer="w2", at_ns=AT_NS + 60 * SECOND),
    )
