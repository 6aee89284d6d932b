"""A shipper over brokers in memory, on a clock that tests move, and what must hold afterwards."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from runwire.metrics.log import MetricLog
from runwire_agent.ship.broker import MemoryBroker, MemoryCluster, Message
from runwire_agent.ship.shipper import Shipper
from runwire_disk.spool.writer import SpoolWriter
from runwire_schemas import codec
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.events import MetricBatch
from support.spools import metric_log, new_writer

KAFKA = KafkaSettings(bootstrap_servers="k:9092")
STEP_S = 0.1


def kafka_writer(root: Path, kafka: KafkaSettings = KAFKA, **overrides: Any) -> SpoolWriter:
    """A writer whose folder goes to `kafka`."""
    return new_writer(root, route="kafka", destination=kafka.public(), **overrides)


class ShippingRig:
    """One data root, one cluster; `start` is a process start, `kill` a SIGKILL."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cluster = MemoryCluster()
        self.now_s = 1000.0
        self.writers: list[SpoolWriter] = []
        self.broker, self.shipper = self._new()

    def _new(self, queue_bytes: int = 64 << 20) -> tuple[MemoryBroker, Shipper]:
        broker = MemoryBroker(self.cluster, queue_bytes=queue_bytes)
        shipper = Shipper(self.root, KAFKA.destination, broker, monotonic_s=lambda: self.now_s)
        return broker, shipper

    def start(self, *, queue_bytes: int = 64 << 20) -> None:
        self.broker, self.shipper = self._new(queue_bytes)

    def kill(self) -> None:
        """End without saving anything: the kernel frees the locks, what was sent stays sent."""
        for shipment in self.shipper.folders.readers():
            shipment.close()
        self.shipper.journal.abandon()

    def writer(self, **overrides: Any) -> tuple[SpoolWriter, MetricLog]:
        made = kafka_writer(self.root, **overrides)
        self.writers.append(made)
        return made, metric_log(made)

    def run(self, seconds: float = 1.0) -> None:
        """Let the shipper work for a while."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.shipper.step(STEP_S)
            self.now_s += STEP_S

    def settle(self) -> None:
        """Let the shipper work until everything is delivered."""
        for _ in range(3000):
            self.run(STEP_S)
            if self.shipper.is_idle:
                return
        raise AssertionError(f"never idle: {self.shipper.trouble}")

    def end(self) -> None:
        for writer in self.writers:
            writer.close()
        self.shipper.close()

    def messages(self, kind: str) -> list[Message]:
        return self.cluster.topics.get(kind, [])

    def events(self, kind: str) -> list[Any]:
        return [codec.decode(message.value) for message in self.messages(kind)]


def distinct_batches(messages: list[Message]) -> list[MetricBatch]:
    """Metric batches by (writer, batch_seq), after checking that repeats are byte-identical."""
    by_id: dict[tuple[str, int], set[bytes]] = defaultdict(set)
    found: dict[tuple[str, int], MetricBatch] = {}
    for message in messages:
        batch = codec.decode(message.value)
        assert isinstance(batch, MetricBatch)
        assert message.key == batch.writer.encode()
        assert message.headers == [("points", str(len(batch.value)).encode())]
        by_id[batch.writer, batch.batch_seq].add(message.value)
        found[batch.writer, batch.batch_seq] = batch
    differing = [key for key, values in by_id.items() if len(values) > 1]
    assert not differing, f"batches with several contents: {differing}"
    return [found[key] for key in sorted(found)]


def points_of(batches: list[MetricBatch]) -> list[tuple[str, int, str, float]]:
    """(writer, call, name, value) of every point, batch by batch."""
    points = []
    for batch in batches:
        at = 0
        for call, n in zip(batch.call_seq, batch.call_n, strict=True):
            for index in range(at, at + n):
                name = batch.names[batch.name_idx[index]]
                points.append((batch.writer, call, name, batch.value[index]))
            at += n
    return points
