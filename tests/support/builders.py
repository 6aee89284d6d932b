"""Builders of events, records and workers with sane defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from runwire_consumers.core.batch import (
    Batch,
    BatchBuilder,
    BatchLimits,
    Decoded,
    Decoder,
    decode_record,
)
from runwire_consumers.core.clock import MemoryClock
from runwire_consumers.core.dead_letters import MemoryDeadLetters
from runwire_consumers.core.health import Health, SelfMetrics
from runwire_consumers.core.patience import Stop
from runwire_consumers.core.sink import MemorySink, Sink, StoredBatches
from runwire_consumers.core.source import (
    MemoryLog,
    MemorySource,
    Record,
    Source,
)
from runwire_consumers.core.worker import Worker, WorkerOptions
from runwire_schemas import codec
from runwire_schemas.events import (
    ArtifactEvent,
    CheckpointEvent,
    Heartbeat,
    LogEvent,
    MetricBatch,
    ParamEvent,
    RunEvent,
)
from support.sources import ForwardingSource

AT_NS = 1_700_000_000_000_000_000
WRITER = "00112233445566778899aabbccddeeff"
_IDENTITY: dict[str, Any] = {
    "project": "tests",
    "run_id": "run-1",
    "attempt": "attempt-1",
    "writer": WRITER,
    "rank": 0,
}


def run_event(**overrides: Any) -> RunEvent:
    """A run that started."""
    fields = {**_IDENTITY, "seq": 0, "at_ns": AT_NS, "event": "started", "status": "running"}
    return RunEvent(**{**fields, **overrides})


def param_event(**overrides: Any) -> ParamEvent:
    """One hyperparameter."""
    fields = {**_IDENTITY, "seq": 1, "at_ns": AT_NS, "key": "lr", "value": "0.1"}
    return ParamEvent(**{**fields, **overrides})


def heartbeat(**overrides: Any) -> Heartbeat:
    """A writer that lives."""
    fields = {**_IDENTITY, "seq": 2, "at_ns": AT_NS, "last_step": 3, "last_progress_at_ns": AT_NS}
    rest = {"phase": "train", "accepted": 4, "dropped": {}, "host": "testhost", "pid": 1}
    return Heartbeat(**{**fields, **rest, "spool_bytes": 0, **overrides})


def log_event(**overrides: Any) -> LogEvent:
    """One console line."""
    fields = {**_IDENTITY, "seq": 3, "at_ns": AT_NS, "stream": "stdout", "name": "console"}
    return LogEvent(**{**fields, "level": "info", "text": "hello", **overrides})


def artifact_event(**overrides: Any) -> ArtifactEvent:
    """An artifact that was logged."""
    fields = {**_IDENTITY, "seq": 4, "at_ns": AT_NS, "artifact": "a" * 32, "event": "logged"}
    about = {"name": "weights", "type": "model", "files": 1, "bytes": 100, "sha256": "", "uri": ""}
    return ArtifactEvent(**{**fields, **about, "route": "direct", **overrides})


def checkpoint_event(**overrides: Any) -> CheckpointEvent:
    """A checkpoint that one rank saved whole."""
    fields = {**_IDENTITY, "seq": 5, "at_ns": AT_NS, "artifact": "a" * 32, "step": 10}
    about = {"kind": "full", "world_size": 1, "metrics": {}, "is_best": False, "bytes": 100}
    cost = {"uri": "file:///c/state.pt", "duration_s": 1.5, "blocked_s": 0.5, "raw_bytes": 200}
    return CheckpointEvent(**{**fields, **about, **cost, "sha256": "0" * 64, **overrides})


def metric_batch(calls: int = 2, names: Sequence[str] = ("loss", "acc"), **kw: Any) -> MetricBatch:
    """`calls` log calls of all names; the value is the step, the first step `first`."""
    first = kw.pop("first", 0)
    steps = list(range(first, first + calls))
    width = len(names)
    fields: dict[str, Any] = {
        **_IDENTITY,
        "batch_seq": first,
        "names": list(names),
        "call_seq": steps,
        "call_step": steps,
        "call_at_ms": [AT_NS // 1_000_000 + step for step in steps],
        "call_n": [width] * calls,
        "name_idx": list(range(width)) * calls,
        "value": [float(step) for step in steps for _ in names],
    }
    return MetricBatch(**{**fields, **kw})


def record(event: Any, offset: int, *, partition: str = "", **overrides: Any) -> Record:
    """An event as a record of a source."""
    value = codec.encode(event)
    stream = codec.kind_of(value)
    fields: dict[str, Any] = {
        "stream": stream,
        "partition": partition or f"{event.writer}/{stream}",
        "offset": offset,
        "last_offset": offset,
        "append_at_ns": AT_NS,
        "value": value,
        "key": getattr(event, "writer", "").encode(),
        "points": len(event.value) if isinstance(event, MetricBatch) else 0,
    }
    return Record(**{**fields, **overrides})


def metric_record(offset: int, *, calls: int = 1, partition: str = "p/metric") -> Record:
    """A record of `calls` * 2 points whose steps begin at its offset."""
    span = {"last_offset": offset + calls - 1}
    return record(metric_batch(calls, first=offset), offset, partition=partition, **span)


def bad_record(offset: int, *, partition: str = "p/metric") -> Record:
    """A record that no codec can read."""
    return Record("metric", partition, offset, offset, AT_NS, b"\x00poison", points=7)


def batch_of(records: Sequence[Record], token: str = "test:1") -> Batch:
    """The batch that a worker would make of these records."""
    builder = BatchBuilder()
    for item in records:
        builder.add(item, decode_record(item))
    return builder.close(token)


@dataclass
class Bench:
    """A worker in memory with everything that outlives it: build one per process life."""

    log: MemoryLog = field(default_factory=MemoryLog)
    store: StoredBatches = field(default_factory=StoredBatches)
    letters: dict[str, Any] = field(default_factory=dict)
    clock: MemoryClock = field(default_factory=MemoryClock)
    limits: BatchLimits = field(default_factory=BatchLimits)
    letters_max: int = 1000
    overlap: bool = False

    def start(
        self,
        *,
        sink: Sink | None = None,
        source: Source | None = None,
        decode: Callable[[Record], Decoded] | None = None,
        polls: int = 20,
    ) -> Worker:
        """A new process life: a worker over what the last one left, until all is quiet."""
        self.stop = Stop()
        self.metrics = SelfMetrics()
        self.health = Health(self.clock)
        self.sink = MemorySink(self.store)
        return Worker(
            QuietSource(source or MemorySource(self.log), self.clock, self.stop, polls=polls),
            sink or self.sink,
            MemoryDeadLetters(self.letters, limit=self.letters_max),
            options=WorkerOptions(
                limits=self.limits,
                overlap=self.overlap,
            ),
            clock=self.clock,
            stop=self.stop,
            metrics=self.metrics,
            health=self.health,
            decoder=Decoder() if decode is None else Decoder(lambda r: [None] * len(r), decode),
        )


class QuietSource(ForwardingSource):
    """Asks the worker to stop at the `polls`-th poll without news, so that a test ends by itself.

    An empty poll takes its timeout on the test's clock; everything else is the inner source's.
    """

    def __init__(self, inner: Source, clock: MemoryClock, stop: Stop, *, polls: int) -> None:
        super().__init__(inner)
        self._clock = clock
        self._stop = stop
        self._left = polls
        self._is_paused = False

    def poll(self, timeout_s: float) -> list[Record]:
        records = self.inner.poll(timeout_s)
        if not records and not self._is_paused:
            self._clock.sleep(timeout_s)
            self._left -= 1
            if self._left <= 0:
                self._stop.is_requested = True
        return records

    def pause(self) -> None:
        self._is_paused = True
        self.inner.pause()

    def resume(self) -> None:
        self._is_paused = False
        self.inner.resume()
