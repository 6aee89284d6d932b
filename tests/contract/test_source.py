"""The contract of sources: order, exact intents after a crash, durable commits."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runwire_consumers.core.clock import Deadline, MemoryClock
from runwire_consumers.core.pieces import WHOLE
from runwire_consumers.core.source import MemoryLog, MemorySource, Record, Source, Span
from runwire_consumers.kafka.source import KafkaSource
from runwire_consumers.spool.journal import IntentJournal
from runwire_consumers.spool.source import SpoolSource
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import topic_name
from support.builders import record, run_event
from support.spools import metric_log, new_writer
from support.topics import JOIN_S, group, joined, make_topics, send


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


class KafkaRig(Rig):
    def __init__(self, kafka: KafkaSettings, prefix: str, protocol: str) -> None:
        self.kafka = replace(kafka, topic_prefix=prefix)
        self.prefix, self.protocol = prefix, protocol
        self.seqs = [0] * self.writers
        make_topics(kafka, prefix, ["run"], partitions=self.writers)

    def feed(self, writer: int, n: int) -> None:
        start = self.seqs[writer]
        self.seqs[writer] += n
        events = [record(run_event(seq=seq), seq) for seq in range(start, start + n)]
        send(self.kafka, topic_name("run", self.prefix), events, partition=writer)

    def open(self) -> Source:
        return KafkaSource(self.kafka, group(self.prefix, ["run"], protocol=self.protocol))


@pytest.fixture(params=["memory", "spool", "kafka", "kafka, next-generation group"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    if request.param == "memory":
        yield MemoryRig()
        return
    if request.param == "spool":
        spools = SpoolRig(tmp_path)
        yield spools
        for writer in spools.spools:
            writer.close()
        return
    kafka = request.getfixturevalue("kafka")
    prefix = request.getfixturevalue("topic_prefix")
    protocol = "classic" if request.param == "kafka" else "consumer"
    yield KafkaRig(kafka.settings, prefix, protocol)


def drain(source: Source) -> list[Record]:
    """Everything until several polls find nothing; a group may take seconds to come together."""
    found: list[Record] = []
    quiet = 0
    deadline_s = time.monotonic() + JOIN_S
    while quiet < (12 if isinstance(source, KafkaSource) else 5):
        # A spool looks every 0.25 s, on the test's clock; a broker answers at once, on ours.
        polled = source.poll(0.1 if isinstance(source, KafkaSource) else 0.3)
        found += polled
        if isinstance(source, KafkaSource) and not joined(source):
            assert time.monotonic() < deadline_s, "the group gave this source no partition"
            continue
        quiet = 0 if polled else quiet + 1
    return found


def batches_of(source: Source, records: list[Record]) -> list[dict[str, Span]]:
    """One batch per lane, as a worker makes them."""
    lanes: dict[str, list[Record]] = {}
    for item in records:
        lanes.setdefault(source.lane(item.partition), []).append(item)
    return [spans_of(part) for part in lanes.values()]


def replayed(source: Source) -> tuple[list[str], dict[str, Span], list[Record]]:
    """Tokens, spans and records of what an earlier owner left; nothing newer may come with it."""
    assert drain(source) == []
    found = source.pending()
    for pending in found:
        stamps = [item.append_at_ns for item in pending.records]
        assert pending.append_at_ns == max(stamps)
    spans = {partition: span for pending in found for partition, span in pending.spans.items()}
    records = [item for pending in found for item in pending.records]
    return [pending.token for pending in found], spans, records


def spans_of(records: list[Record]) -> dict[str, Span]:
    spans: dict[str, Span] = {}
    for item in records:
        old = spans.get(item.partition)
        spans[item.partition] = Span(old.first if old else item.offset, item.last_offset)
    return spans


def values(records: list[Record]) -> list[tuple[str, int, bytes]]:
    return sorted((item.partition, item.offset, item.value) for item in records)


def test_source_yields_records_once_and_in_order(rig: Rig) -> None:
    """Per partition the offsets rise without gap or repetition; later records are yielded too."""
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


def test_source_yields_uncommitted_records_after_a_restart(rig: Rig) -> None:
    """Without an intent a restart begins at the committed offsets."""
    rig.feed(0, 4)
    first = rig.open()
    before = drain(first)
    first.close(Deadline(1))
    second = rig.open()
    assert second.pending() == []
    assert values(drain(second)) == values(before)
    second.close(Deadline(1))


def test_source_restores_an_intent_exactly_after_a_crash(rig: Rig) -> None:
    """Token, spans, stamp and bytes are the same; no newer record is yielded before the commit."""
    rig.feed(0, 3)
    rig.feed(1, 2)
    source = rig.open()
    batch = drain(source)
    tokens = source.intend(batches_of(source, batch))
    source.close(Deadline(1))
    rig.feed(0, 4)
    for _ in range(2):  # a crash during the replay is followed by another replay
        source = rig.open()
        again_tokens, spans, again = replayed(source)
        assert (sorted(again_tokens), spans) == (sorted(tokens), spans_of(batch))
        assert values(again) == values(batch)
        source.close(Deadline(1))
    source = rig.open()
    _, spans, _ = replayed(source)
    assert drain(source) == []
    source.commit(spans)
    assert source.pending() == []
    assert len(drain(source)) == 4
    source.close(Deadline(1))


def test_source_restores_the_pieces_of_an_intent_after_a_crash(rig: Rig) -> None:
    """The last cut counts, through several restarts; the next batch is whole again."""
    rig.feed(0, 3)
    source = rig.open()
    batch = drain(source)
    source.intend(batches_of(source, batch))
    for size in (50, 7):
        source.cut(spans_of(batch), WHOLE.cut("metrics", 0, size).cut("logs", 0, 1))
    source.close(Deadline(1))
    for _ in range(2):
        source = rig.open()
        assert drain(source) == []
        (pending,) = source.pending()
        assert str(pending.pieces) == "logs:0/1;metrics:0/7"
        source.close(Deadline(1))
    source = rig.open()
    _, spans, _ = replayed(source)
    source.commit(spans)
    rig.feed(0, 2)
    source.intend(batches_of(source, drain(source)))
    source.close(Deadline(1))
    source = rig.open()
    assert drain(source) == []
    (pending,) = source.pending()
    assert pending.pieces == WHOLE
    source.close(Deadline(1))


def test_committed_records_are_never_yielded_again(rig: Rig) -> None:
    """A commit survives the restart, and no token is used twice."""
    rig.feed(0, 3)
    source = rig.open()
    batch = drain(source)
    tokens = {*source.intend(batches_of(source, batch))}
    source.commit(spans_of(batch))
    rig.feed(0, 2)
    later = drain(source)
    assert [item.offset for item in later] == [3, 4]
    tokens |= {*source.intend(batches_of(source, later))}
    source.commit(spans_of(later))
    source.close(Deadline(1))
    source = rig.open()
    assert drain(source) == []
    assert source.pending() == []
    rig.feed(0, 1)
    last = drain(source)
    assert [item.offset for item in last] == [5]
    tokens |= {*source.intend(batches_of(source, last))}
    assert len(tokens) == 3
    source.close(Deadline(1))


def test_batch_may_end_within_the_polled_records(rig: Rig) -> None:
    """The rest of a poll belongs to the next batch, also across a restart."""
    rig.feed(0, 6)
    source = rig.open()
    polled = drain(source)
    source.intend(batches_of(source, polled[:2]))
    source.commit(spans_of(polled[:2]))
    tokens = source.intend(batches_of(source, polled[2:5]))
    source.close(Deadline(1))
    source = rig.open()
    again_tokens, spans, again = replayed(source)
    assert again_tokens == tokens
    assert values(again) == values(polled[2:5])
    source.commit(spans)
    assert values(drain(source)) == values(polled[5:])
    source.close(Deadline(1))


def test_source_yields_nothing_while_it_is_paused(rig: Rig) -> None:
    """Between `pause` and `resume` no record is yielded; afterwards all of them are."""
    rig.feed(0, 2)
    source = rig.open()
    source.pause()
    assert drain(source) == []
    source.resume()
    assert len(drain(source)) == 2
    source.close(Deadline(1))


def test_spool_source_rebuilds_metric_cuts_byte_for_byte(tmp_path: Path) -> None:
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
    source.intend(batches_of(source, batch))
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
