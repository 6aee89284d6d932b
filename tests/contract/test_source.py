"""What every source promises: order, intents that come back exactly, commits that hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from runwire_consumers.core.clock import MemoryClock
from runwire_consumers.core.deadline import Deadline
from runwire_consumers.core.source import MemoryLog, MemorySource, Record, Source, Span
from runwire_consumers.spool.journal import IntentJournal
from runwire_consumers.spool.source import SpoolSource
from support.builders import record, run_event
from support.spools import metric_log, new_writer


class Rig(ABC):
    """A kind of source whose data outlive it: `open` is a process start."""

    writers = 2

    @abstractmethod
    def feed(self, writer: int, n: int) -> None:
        """Make `n` more records appear in one partition of one writer."""

    @abstractmethod
    def open(self) -> Source: ...


class MemoryRig(Rig):
    def __init__(self) -> None:
        self.log = MemoryLog()

    def feed(self, writer: int, n: int) -> None:
        partition = f"{writer}/lifecycle"
        start = len(self.log.records.get(partition, []))
        self.log.append(
            record(run_event(seq=seq), seq, partition=partition) for seq in range(start, start + n)
        )

    def open(self) -> Source:
        return MemorySource(self.log)


class SpoolRig(Rig):
    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = MemoryClock()
        self.spools = [new_writer(root) for _ in range(self.writers)]
        self.seqs = [0] * self.writers

    def feed(self, writer: int, n: int) -> None:
        for _ in range(n):
            fields = {"seq": self.seqs[writer], "event": "updated"}
            self.spools[writer].append_json("run", fields)
            self.seqs[writer] += 1

    def open(self) -> Source:
        return SpoolSource(self.root, IntentJournal(self.root / "journal"), clock=self.clock)


@pytest.fixture(params=["memory", "spool"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    return MemoryRig() if request.param == "memory" else SpoolRig(tmp_path)


def drain(source: Source) -> list[Record]:
    """Everything until several polls find nothing."""
    found: list[Record] = []
    quiet = 0
    while quiet < 5:
        polled = source.poll(0.3)
        quiet = 0 if polled else quiet + 1
        found += polled
    return found


def spans_of(records: list[Record]) -> dict[str, Span]:
    spans: dict[str, Span] = {}
    for item in records:
        old = spans.get(item.partition)
        spans[item.partition] = Span(old.first if old else item.offset, item.last_offset)
    return spans


def values(records: list[Record]) -> list[tuple[str, int, bytes]]:
    return sorted((item.partition, item.offset, item.value) for item in records)


def test_records_come_once_and_in_order(rig: Rig) -> None:
    """Per partition the offsets rise without gap or repetition; what comes later is seen."""
    rig.feed(0, 5)
    rig.feed(1, 3)
    source = rig.open()
    found = drain(source)
    rig.feed(0, 2)
    found += drain(source)
    by_partition: dict[str, list[int]] = {}
    for item in found:
        by_partition.setdefault(item.partition, []).append(item.offset)
    assert sorted(by_partition.values()) == [list(range(3)), list(range(7))]
    assert all(item.append_at_ns > 0 and item.stream == "run" for item in found)
    source.close(Deadline(1))


def test_uncommitted_records_come_again(rig: Rig) -> None:
    """Without an intent a restart begins at the committed offsets."""
    rig.feed(0, 4)
    first = rig.open()
    before = drain(first)
    first.close(Deadline(1))
    second = rig.open()
    assert second.pending() == []
    assert values(drain(second)) == values(before)
    second.close(Deadline(1))


def test_an_intent_comes_back_exactly(rig: Rig) -> None:
    """Token, spans, stamp and bytes are the same; nothing newer mixes in before the commit."""
    rig.feed(0, 3)
    rig.feed(1, 2)
    source = rig.open()
    batch = drain(source)
    (token,) = source.intend([spans_of(batch)])
    source.close(Deadline(1))
    rig.feed(0, 4)
    for _ in range(2):  # a crash during the replay is followed by another replay
        source = rig.open()
        assert drain(source) == []
        (pending,) = source.pending()
        assert (pending.token, dict(pending.spans)) == (token, spans_of(batch))
        assert pending.append_at_ns == max(item.append_at_ns for item in batch)
        again = list(pending.records)
        assert values(again) == values(batch)
        assert {item.append_at_ns for item in again} == {pending.append_at_ns}
        source.close(Deadline(1))
    source = rig.open()
    (pending,) = source.pending()
    source.commit(pending.spans)
    assert source.pending() == []
    assert len(drain(source)) == 4
    source.close(Deadline(1))


def test_a_commit_holds(rig: Rig) -> None:
    """What was committed never comes again, tokens never repeat."""
    rig.feed(0, 3)
    source = rig.open()
    batch = drain(source)
    tokens = {*source.intend([spans_of(batch)])}
    source.commit(spans_of(batch))
    rig.feed(0, 2)
    later = drain(source)
    assert [item.offset for item in later] == [3, 4]
    tokens |= {*source.intend([spans_of(later)])}
    source.commit(spans_of(later))
    source.close(Deadline(1))
    source = rig.open()
    assert source.pending() == []
    assert drain(source) == []
    rig.feed(0, 1)
    last = drain(source)
    assert [item.offset for item in last] == [5]
    tokens |= {*source.intend([spans_of(last)])}
    assert len(tokens) == 3
    source.close(Deadline(1))


def test_a_batch_may_end_inside_what_was_polled(rig: Rig) -> None:
    """The rest of a poll belongs to the next batch, across a restart too."""
    rig.feed(0, 6)
    source = rig.open()
    polled = drain(source)
    source.intend([spans_of(polled[:2])])
    source.commit(spans_of(polled[:2]))
    (token,) = source.intend([spans_of(polled[2:5])])
    source.close(Deadline(1))
    source = rig.open()
    (pending,) = source.pending()
    assert pending.token == token
    assert values(list(pending.records)) == values(polled[2:5])
    source.commit(pending.spans)
    assert values(drain(source)) == values(polled[5:])
    source.close(Deadline(1))


def test_a_paused_source_yields_nothing(rig: Rig) -> None:
    rig.feed(0, 2)
    source = rig.open()
    source.pause()
    assert drain(source) == []
    source.resume()
    assert len(drain(source)) == 2
    source.close(Deadline(1))


def test_metrics_of_many_cuts_are_rebuilt_byte_for_byte(tmp_path: Path) -> None:
    """Several metric cuts of one writer in one batch keep their bounds and numbers."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    clock = MemoryClock()
    source = SpoolSource(tmp_path, IntentJournal(tmp_path / "journal"), clock=clock)
    batch: list[Record] = []
    for step in range(12):
        log.log({"loss": step / 3, "acc": float(step)}, step)
        if step % 4 == 3:
            batch += drain(source)
    assert len([item for item in batch if item.stream == "metric"]) == 3
    source.intend([spans_of(batch)])
    source.close(Deadline(1))
    log.log({"loss": 99.0}, 99)
    source = SpoolSource(tmp_path, IntentJournal(tmp_path / "journal"), clock=clock)
    (pending,) = source.pending()
    again = list(pending.records)
    assert values(again) == values(batch)
    assert not any(item.damage for item in again)
    source.commit(pending.spans)
    (rest,) = drain(source)
    assert (rest.points, rest.damage) == (1, "")
    source.close(Deadline(1))
    writer.close()
