"""Rounds of several batches: what stops one leaves the others alone, and nothing changes order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from runwire_consumers.core.batch import Batch, BatchLimits
from runwire_consumers.core.errors import (
    PiecesNeeded,
    Refusal,
    Rejection,
    Retryable,
    RowsRejected,
)
from runwire_consumers.core.pieces import WHOLE, Pieces
from runwire_consumers.core.sink import MemorySink, Refusals, StoredBatches
from runwire_consumers.core.source import MemoryLog, MemorySource
from support.builders import (
    Bench,
    batch_of,
    heartbeat,
    metric_record,
    param_event,
    record,
    run_event,
)

SMALL = WHOLE.cut("metrics", 0, 1)


class Lanes(MemorySource):
    """A lane per partition, as in Kafka; those in `takes` go to another worker."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.takes: frozenset[str] = frozenset()
        self.cuts: list[tuple[str, Pieces]] = []

    def lane(self, partition: str) -> str:
        return partition

    def intend(self, batches: Any) -> list[str]:
        return [",".join(f"{p}:{s.first}-{s.last}" for p, s in b.items()) for b in batches]

    def cut(self, spans: Any, pieces: Pieces) -> None:
        self.cuts.append((next(iter(spans)), pieces))

    def revoked(self) -> frozenset[str]:
        lost, self.takes = self.takes, frozenset()
        return lost


class Stopping(MemorySink):
    """Takes the rounds whole; `stops` are returned first, by the partition of their batch."""

    def __init__(self, store: StoredBatches) -> None:
        super().__init__(store)
        self.stops: dict[str, list[Refusal]] = {}
        self.rounds: list[list[str]] = []

    def write_round(self, batches: Sequence[Batch]) -> Refusals:
        refusals: Refusals = {}
        self.rounds.append([name_of(batch) for batch in batches])
        for batch in batches:
            stops = self.stops.get(name_of(batch))
            if stops:
                refusals[batch.token] = stops.pop(0)
            else:
                self.write(batch)
        return refusals


def name_of(batch: Batch) -> str:
    (name,) = batch.spans
    return name


def started(bench: Bench, sink: MemorySink) -> tuple[Lanes, int]:
    source = Lanes(bench.log)
    return source, bench.start(source=source, sink=sink).run()


def three(bench: Bench) -> None:
    bench.log.append(metric_record(0, partition=f"m/{n}") for n in range(3))


@pytest.mark.parametrize("overlap", [False, True])
def test_retryable_of_one_batch_writes_the_others_once(*, overlap: bool) -> None:
    """Only the stopped batch is written again, under its token; one commit covers all."""
    bench = Bench(overlap=overlap)
    three(bench)
    sink = Stopping(bench.store)
    sink.stops["m/1"] = [Retryable(0.1, "too large for now")] * 2
    _, status = started(bench, sink)
    assert status == 0
    assert sink.rounds == [["m/0", "m/1", "m/2"], ["m/1"], ["m/1"]]
    assert bench.log.committed == {f"m/{n}": 1 for n in range(3)}


def test_pieces_of_two_batches_are_kept_before_either_is_written_again() -> None:
    """Each cut is in the source first; the batch between them is written in the first try."""
    bench = Bench()
    three(bench)
    sink = Stopping(bench.store)
    for n in (0, 2):
        need = PiecesNeeded(f"m/{n}:0-0", SMALL, "too large")
        sink.stops[f"m/{n}"] = [need]
    source, status = started(bench, sink)
    assert status == 0
    assert source.cuts == [("m/0", SMALL), ("m/2", SMALL)]
    assert sink.rounds == [["m/0", "m/1", "m/2"], ["m/0"], ["m/2"]]
    assert [b.pieces for b in bench.store.batches.values()] == [WHOLE, SMALL, SMALL]


def test_rejected_rows_of_one_batch_are_set_aside_without_a_wait() -> None:
    """The rest of it is written at once, although another batch has to wait for its turn."""
    bench = Bench()
    three(bench)
    sink = Stopping(bench.store)
    sink.stops["m/0"] = [RowsRejected([Rejection("metric", 0, "odd")])]
    sink.stops["m/1"] = [Retryable(0.1, "too large for now")]
    _, status = started(bench, sink)
    assert status == 0
    assert sink.rounds == [["m/0", "m/1", "m/2"], ["m/0"], ["m/1"]]
    assert [letter.partition for letter in bench.letters.values()] == ["m/0"]
    assert bench.store.points == 4


def test_points_wait_until_runs_and_heartbeats_are_written() -> None:
    """While a batch of runs is stopped no point is written: a reader would not know its run."""
    bench = Bench()
    bench.log.append(
        [
            metric_record(0, partition="m/0"),
            record(heartbeat(), 0, partition="h/0"),
            record(param_event(), 0, partition="p/0"),
            record(run_event(), 0, partition="r/0"),
        ]
    )
    sink = Stopping(bench.store)
    sink.stops["r/0"] = [Retryable(0.1, "away")]
    _, status = started(bench, sink)
    assert status == 0
    assert sink.rounds == [["r/0", "p/0", "h/0"], ["r/0"], ["m/0"]]


class Preparing(MemorySink):
    """Writes its first round only once it was asked to prepare the second."""

    def __init__(self, bench: Bench, source: Lanes, takes: frozenset[str] = frozenset()) -> None:
        super().__init__(bench.store)
        self.prepared: list[list[str]] = []
        self.blocks: dict[str, Any] = {}
        self._is_asked = threading.Event()
        self._source, self._takes = source, takes

    def prepare(self, batches: Sequence[Batch]) -> list[Batch]:
        assert all(batch.token == "" for batch in batches)
        self.prepared.append([name_of(batch) for batch in batches])
        self._source.takes, self._takes = self._takes, frozenset()
        self._is_asked.set()
        return [replace(batch, blocks=f"blocks of {name_of(batch)}") for batch in batches]

    def write(self, batch: Batch) -> None:
        assert self._is_asked.wait(60)
        self.blocks[batch.token] = batch.blocks
        super().write(batch)


def test_blocks_that_were_built_ahead_reach_the_write_with_their_batch() -> None:
    """What `prepare` returns is written under the token that the intent gives it afterwards."""
    bench = Bench(overlap=True, limits=BatchLimits(rows=2))
    bench.log.append(metric_record(n, partition="m/0") for n in range(2))
    source = Lanes(bench.log)
    sink = Preparing(bench, source)
    assert bench.start(source=source, sink=sink).run() == 0
    assert sink.blocks == {"m/0:0-0": None, "m/0:1-1": "blocks of m/0"}
    assert bench.log.committed == {"m/0": 2}


def test_blocks_of_a_partition_that_moved_away_are_thrown_away() -> None:
    """Between the build and the intent it went to another worker, which writes its records."""
    bench = Bench(overlap=True, limits=BatchLimits(rows=4))
    bench.log.append(metric_record(n, partition="m/0") for n in range(3))
    bench.log.append([metric_record(0, partition="m/1")])
    source = Lanes(bench.log)
    sink = Preparing(bench, source, frozenset(("m/1",)))
    assert bench.start(source=source, sink=sink).run() == 0
    assert sink.prepared == [["m/0", "m/1"]]
    assert bench.store.writes == ["m/0:0-1", "m/0:2-2"]
    assert bench.log.committed == {"m/0": 3}


def test_blocks_are_built_again_when_rows_are_rejected_or_pieces_change() -> None:
    """What was built of other rows or pieces is never sent."""
    batch = replace(batch_of([metric_record(0), metric_record(1)]), blocks="built")
    assert batch.named("t:1").blocks == "built"
    assert batch.without([Rejection("metric", 0, "odd")]).blocks is None
    assert batch.in_pieces(SMALL).blocks is None
