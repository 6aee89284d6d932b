"""Endings of a worker: one deadline, a second signal, handles released; all in memory."""

from __future__ import annotations

import pytest

from runwire_consumers.core.batch import Batch, BatchLimits
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.sink import MemorySink
from runwire_consumers.core.source import MemorySource
from support.builders import Bench, metric_record


def test_shutdown_gives_up_at_its_deadline(caplog: pytest.LogCaptureFixture) -> None:
    """With an unreachable sink the worker ends in time, commits nothing and logs the rows left."""
    bench = Bench()
    bench.log.append([metric_record(0)])

    class Away(MemorySink):
        def write(self, batch: Batch) -> None:
            bench.stop.is_requested = True
            raise Retryable(0.1, "engine is away")

    start_s = bench.clock.monotonic_s()
    assert bench.start(sink=Away(bench.store)).run() == 1
    assert "2 rows that were read are not committed" in caplog.text
    assert 9.9 <= bench.clock.monotonic_s() - start_s <= 12.5
    assert bench.log.committed == {}
    assert bench.log.intent is not None
    assert bench.start().run() == 0
    assert bench.store.points == 2


def test_first_signal_flushes_the_records_read() -> None:
    """A batch below its age limit is written before the worker ends."""
    bench = Bench(limits=BatchLimits(age_s=1e9))
    bench.log.append([metric_record(0)])
    assert bench.start().run() == 0
    assert bench.store.points == 2


def test_second_signal_skips_the_flush_and_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    """It interrupts even a hanging write; the next start writes the batch."""
    bench = Bench()
    bench.log.append([metric_record(0)])

    class Hanging(MemorySink):
        def write(self, batch: Batch) -> None:
            bench.stop.signal()
            bench.stop.signal()
            raise AssertionError("not reached")

    assert bench.start(sink=Hanging(bench.store)).run() == 1
    assert "second signal: the flush is skipped; 2 rows" in caplog.text
    assert bench.log.committed == {}
    assert bench.start().run() == 0
    assert bench.store.points == 2


def test_sink_is_closed_even_when_closing_the_source_fails() -> None:
    """An error while closing the source neither skips the sink nor changes the exit status."""
    bench = Bench()
    closed: list[str] = []

    class Source(MemorySource):
        def close(self, deadline: Deadline) -> None:
            closed.append("source")
            raise OSError("cannot close")

    class Sink(MemorySink):
        def close(self, deadline: Deadline) -> None:
            closed.append("sink")

    worker = bench.start(source=Source(bench.log), sink=Sink(bench.store), polls=1)
    assert worker.run() == 0
    assert closed == ["source", "sink"]
