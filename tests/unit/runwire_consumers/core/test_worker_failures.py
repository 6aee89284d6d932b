"""The worker's failure table, row by row, in memory."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from runwire_consumers.core.batch import Batch, BatchLimits
from runwire_consumers.core.errors import Rejection, Retryable, RowsRejected
from runwire_consumers.core.sink import MemorySink
from runwire_consumers.core.source import MemorySource, Pending, Record, Span
from support.builders import Bench, bad_record, metric_record, record, run_event


def test_worker_writes_every_record_once_and_commits() -> None:
    """Records of all partitions are stored, the offsets pass them, the exit status is 0."""
    bench = Bench()
    bench.log.append([metric_record(0), metric_record(1), record(run_event(), 0)])
    assert bench.start().run() == 0
    assert bench.store.points == 4
    assert bench.store.count("run") == 1
    assert bench.log.committed == {"p/metric": 2, f"{run_event().writer}/run": 1}
    assert bench.log.intent is None
    assert bench.health.state == "stopping"


def test_undecodable_record_becomes_a_dead_letter() -> None:
    """DecodeError: the record is kept with reason and coordinates, its neighbours are written."""
    bench = Bench()
    bench.log.append([metric_record(0), bad_record(1), metric_record(2)])
    assert bench.start().run() == 0
    (letter,) = bench.letters.values()
    assert (letter.stream, letter.partition, letter.offset) == ("metric", "p/metric", 1)
    assert (letter.points, letter.value) == (7, b"\x00poison")
    assert "cannot be decoded" in letter.reason
    assert bench.store.points == 4
    assert bench.store.count("deadletter") == 1
    assert bench.log.committed == {"p/metric": 3}
    assert bench.metrics.value("runwire_worker_dead_letters_total", reason="decode") == 1


def test_damaged_record_becomes_a_dead_letter_undecoded() -> None:
    """A record that its source marks as damaged is kept with that reason and never decoded."""
    bench = Bench()
    damaged = record(run_event(), 0, damage="flipped bit at 17", index=1)
    bench.log.append([damaged])
    assert bench.start().run() == 0
    assert [letter.reason for letter in bench.letters.values()] == ["flipped bit at 17"]
    assert bench.store.count("run") == 0


def test_worker_stops_at_the_dead_letter_limit(caplog: pytest.LogCaptureFixture) -> None:
    """At the limit nothing is committed, now and after a restart, until a person acts."""
    bench = Bench(letters_max=2)
    bench.log.append([bad_record(offset) for offset in range(3)])
    assert bench.start().run() == 1
    assert "runwire dead-letters" in caplog.text
    assert bench.health.answer()[0] == 503
    assert bench.log.committed == {}
    assert bench.start().run() == 1
    assert (len(bench.letters), bench.log.committed) == (2, {})
    bench.letters_max = 3
    assert bench.start().run() == 0
    assert (len(bench.letters), bench.log.committed) == (3, {"p/metric": 3})


def test_letters_are_durable_before_write_and_commit() -> None:
    """When the sink sees a batch, its dead letters are kept already."""
    bench = Bench()
    bench.log.append([bad_record(0), metric_record(1)])
    seen: list[int] = []

    class Watching(MemorySink):
        def write(self, batch: Batch) -> None:
            seen.append(len(bench.letters))
            super().write(batch)

    assert bench.start(sink=Watching(bench.store)).run() == 0
    assert seen == [1]


def test_retryable_repeats_the_batch_under_the_same_token() -> None:
    """Nothing is committed between the tries; waits grow to the cap."""
    bench = Bench()
    bench.log.append([metric_record(0)])
    worker = bench.start()
    committed: list[dict[str, int]] = []

    class Failing(MemorySink):
        tokens: list[tuple[str, float]] = []  # noqa: RUF012 - one test, one instance

        def write(self, batch: Batch) -> None:
            committed.append(dict(bench.log.committed))
            self.tokens.append((batch.token, bench.clock.monotonic_s()))
            super().write(batch)

    sink = Failing(bench.store)
    sink.failures = [Retryable(0.1, "engine is away") for _ in range(7)]
    worker = bench.start(sink=sink)
    assert worker.run() == 0
    tokens = {token for token, _ in sink.tokens}
    assert (len(sink.tokens), tokens) == (8, {"memory:1"})
    assert committed == [{}] * 8
    times = [at_s for _, at_s in sink.tokens]
    waits = [round(b - a, 3) for a, b in pairwise(times)]
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert bench.metrics.value("runwire_worker_retries_total") == 7


def test_health_shows_retrying_and_stuck_during_an_outage() -> None:
    """While writes fail the state is retrying; when rows have waited too long it is stuck (503)."""
    bench = Bench()
    bench.log.append([metric_record(0)])
    answers: list[tuple[int, str]] = []

    class Failing(MemorySink):
        def write(self, batch: Batch) -> None:
            status, body = bench.health.answer()
            answers.append((status, body["state"]))
            super().write(batch)

    sink = Failing(bench.store)
    sink.failures = [Retryable(1.0, "engine is away") for _ in range(40)]
    assert bench.start(sink=sink).run() == 0
    assert answers[1] == (200, "retrying")
    assert answers[-1] == (503, "stuck")
    assert bench.health.answer()[0] == 200


def test_rejected_rows_are_set_aside_and_the_others_written() -> None:
    """RowsRejected: same token, the other rows, then the commit."""
    bench = Bench()
    bench.log.append([metric_record(0), metric_record(1, calls=3), record(run_event(), 0)])
    worker = bench.start()
    bench.sink.failures = [
        RowsRejected([Rejection("metric", 1, "too odd")]),
        Retryable(0.1, "away"),
        RowsRejected([Rejection("run", 0, "also odd")]),
    ]
    assert worker.run() == 0
    assert bench.store.writes == ["memory:1"]
    assert (bench.store.points, bench.store.count("run")) == (2, 0)
    reasons = {letter.reason: letter for letter in bench.letters.values()}
    odd = reasons["rejected by the sink: too odd"]
    assert (odd.offset, odd.last_offset, odd.points, odd.run_id) == (1, 3, 6, "run-1")
    assert reasons["rejected by the sink: also odd"].run_id == "run-1"
    assert bench.log.committed["p/metric"] == 4
    assert bench.metrics.value("runwire_worker_dead_letters_total", reason="rejected") == 2


def test_unknown_error_ends_the_worker_without_a_commit(caplog: pytest.LogCaptureFixture) -> None:
    """One log entry with the coordinates, status 1, intent and offsets as they were."""
    bench = Bench()
    bench.log.append([metric_record(0)])
    worker = bench.start()
    bench.sink.failures = [KeyError("surprise")]
    assert worker.run() == 1
    errors = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "memory:1: p/metric 0-0" in errors[0].getMessage()
    assert bench.log.committed == {}
    assert bench.log.intent == Pending("memory:1", {"p/metric": Span(0, 0)}, 1_700_000_000 * 10**9)


def test_bug_in_the_decoder_ends_the_worker() -> None:
    """Only DecodeError sets a record aside; any other error of the decoder must be seen."""
    bench = Bench()
    bench.log.append([metric_record(0)])

    def broken(_: Record) -> Any:
        raise IndexError

    assert bench.start(decode=broken).run() == 1
    assert (bench.letters, bench.log.committed) == ({}, {})


def test_intent_is_replayed_exactly_before_newer_records() -> None:
    """After a crash during the write the same spans return under the same token, then the rest."""
    bench = Bench(limits=BatchLimits(rows=4))
    bench.log.append([metric_record(offset) for offset in range(2)])
    worker = bench.start()
    bench.sink.failures = [RuntimeError("crash before the insert")]
    assert worker.run() == 1
    bench.log.append([metric_record(offset) for offset in range(2, 5)])
    assert bench.start().run() == 0
    first, *_ = bench.store.batches.values()
    assert (first.token, dict(first.spans)) == ("memory:1", {"p/metric": Span(0, 1)})
    assert bench.store.points == 10
    assert bench.metrics.value("runwire_worker_replayed_batches_total") == 1


def test_crash_after_the_insert_stores_no_row_twice() -> None:
    """A restart repeats the batch under its token: rows and dead letters are there once."""
    bench = Bench()
    bench.log.append([metric_record(0), bad_record(1)])

    class DiesAfterwards(MemorySink):
        def write(self, batch: Batch) -> None:
            super().write(batch)
            raise RuntimeError("crash after the insert")

    assert bench.start(sink=DiesAfterwards(bench.store)).run() == 1
    assert bench.start().run() == 0
    assert bench.store.writes == ["memory:1", "memory:1"]
    assert (bench.store.points, len(bench.letters)) == (2, 1)


def test_replay_with_records_beyond_its_intent_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """The same token with other content would lose rows silently: stop instead."""
    bench = Bench()
    bench.log.append([metric_record(0), metric_record(1)])

    class Confused(MemorySource):
        def pending(self) -> list[Pending]:
            return [replace(p, spans={"p/metric": Span(0, 0)}) for p in super().pending()]

    worker = bench.start()
    bench.sink.failures = [RuntimeError("crash")]
    assert worker.run() == 1
    assert bench.start(source=Confused(bench.log)).run() == 1
    assert "cannot be rebuilt" in caplog.text
    assert bench.store.writes == []


class Partitioned(MemorySource):
    """Partitions that another worker may take at any moment, one lane each, as in Kafka."""

    lost: frozenset[str] = frozenset()
    takes_at = ""  # which call takes `lost` away, the first time it is made

    def lane(self, partition: str) -> str:
        return partition

    def revoked(self) -> frozenset[str]:
        if self.takes_at != "taken":
            return frozenset()
        lost, self.lost = self.lost, frozenset()
        return lost

    def intend(self, batches: Any) -> list[str]:
        self._take("intend")
        return [",".join(f"{p}:{s.first}-{s.last}" for p, s in b.items()) for b in batches]

    def commit(self, spans: Any) -> None:
        self._take("commit")
        super().commit(spans)

    def _take(self, call: str) -> None:
        if self.takes_at == call:
            self.takes_at = "taken"
            raise Retryable(0.01, "the group is rebalancing")


def test_every_lane_has_its_batch_and_one_commit_covers_all() -> None:
    """Partitions of different lanes share no batch; batches with runs are written first."""
    bench = Bench()
    bench.log.append([metric_record(0), record(run_event(), 7, partition="q/run")])
    assert bench.start(source=Partitioned(bench.log)).run() == 0
    assert bench.store.writes == ["q/run:7-7", "p/metric:0-0"]  # runs before points
    assert bench.log.committed == {"q/run": 8, "p/metric": 1}


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("call", ["intend", "commit"])
def test_partition_lost_to_another_worker_is_not_committed(call: str, *, overlap: bool) -> None:
    """A partition lost before the intent is not written, one lost before the commit stays open."""
    bench = Bench(overlap=overlap)
    bench.log.append([metric_record(0), record(run_event(), 7, partition="q/run")])
    source = Partitioned(bench.log)
    source.lost, source.takes_at = frozenset(("p/metric",)), call
    assert bench.start(source=source).run() == 0
    written = ["q/run:7-7"] if call == "intend" else ["q/run:7-7", "p/metric:0-0"]
    assert bench.store.writes == written
    assert bench.log.committed == {"q/run": 8}
    assert bench.metrics.value("runwire_worker_revoked_partitions_total") == 1


def test_replay_skips_an_intent_lost_during_another_replay() -> None:
    """Of two batches to repeat, the second goes to another worker before its turn comes."""
    bench = Bench()
    records = [metric_record(0), record(run_event(), 7, partition="q/run")]
    bench.log.append(records)
    source = Partitioned(bench.log)
    found = [
        Pending(f"{r.partition}:old", {r.partition: Span(r.offset, r.offset)}, 0, [r])
        for r in records
    ]
    source.positions = {"p/metric": 1, "q/run": 8}
    source.pending = lambda: [found.pop(0) for _ in list(found)]  # type: ignore[method-assign]
    source.lost, source.takes_at = frozenset(("q/run",)), "commit"
    committed: list[set[str]] = []

    def commit(spans: Any) -> None:
        Partitioned.commit(source, spans)
        if "q/run" in spans:
            raise Retryable(0.01, "q/run has another owner now")
        committed.append(set(spans))

    source.commit = commit  # type: ignore[method-assign]
    assert bench.start(source=source).run() == 0
    assert committed == [{"p/metric"}]


def test_worker_reads_records_while_a_batch_is_written() -> None:
    """With overlap the loop polls on; the next round waits for the commit of the first."""
    bench = Bench(overlap=True, limits=BatchLimits(rows=2))
    bench.log.append([metric_record(offset) for offset in range(4)])
    source = Partitioned(bench.log, records_max=1)
    polled_before: list[int] = []

    class Slow(MemorySink):
        def write(self, batch: Batch) -> None:
            deadline = time.monotonic() + 10
            if batch.spans["p/metric"].first < 3:  # the last one has no successor to wait for
                while source.positions["p/metric"] < batch.spans["p/metric"].last + 2:
                    assert time.monotonic() < deadline
                    time.sleep(0.001)
            polled_before.append(source.positions["p/metric"])
            super().write(batch)

    assert bench.start(source=source, sink=Slow(bench.store)).run() == 0
    assert polled_before == [2, 3, 4, 4]
    assert bench.store.writes == [f"p/metric:{n}-{n}" for n in range(4)]
    assert bench.log.committed == {"p/metric": 4}


def test_error_of_the_writing_thread_is_retried_or_ends_the_worker() -> None:
    """A Retryable raised beside the loop repeats the write, another error ends the worker."""
    bench = Bench(overlap=True)
    bench.log.append([metric_record(0)])
    worker = bench.start(source=Partitioned(bench.log))
    bench.sink.failures = [Retryable(0.1, "away"), Retryable(0.1, "away")]
    assert worker.run() == 0
    assert bench.store.writes == ["p/metric:0-0"]
    bench.log.append([metric_record(1)])
    worker = bench.start(source=Partitioned(bench.log))
    bench.sink.failures = [KeyError("surprise")]
    assert worker.run() == 1
    assert bench.log.committed == {"p/metric": 1}


def test_worker_repeats_an_intent_that_raises_retryable() -> None:
    """A source that cannot store an intent yet is called again, and nothing is lost."""
    bench = Bench()
    bench.log.append([metric_record(0)])

    class Hesitant(MemorySource):
        failures = 3

        def intend(self, batches: Any) -> list[str]:
            self.failures -= 1
            if self.failures >= 0:
                raise Retryable(0.1, "the disk is full")
            return super().intend(batches)

    assert bench.start(source=Hesitant(bench.log)).run() == 0
    assert bench.store.points == 2
