"""Load of the Kafka fault tests, and the ledger of the messages that brokers acknowledged.

A record is named by its writer and number; points and values follow from these two alone.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from runwire_schemas import codec
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.events import MetricBatch

Name = tuple[int, int]
RECORD_STEPS = 1_000  # a record's calls have the steps number * RECORD_STEPS and on
# The same formula in SQL; multiples of 1/8 add up exactly in any order.
VALUE_SQL = "((step * 7919 + toInt64(substring(metric, 2)) * 104729 + rank) % 1000003) / 8"
FLUSH_S = 120.0


def size_of(name: Name) -> tuple[int, int]:
    """Calls of a record, and metrics of each."""
    mixed = zlib.crc32(repr(name).encode())
    return 1 + mixed % 25, 1 + (mixed >> 8) % 6


def value(writer: int, step: int, index: int) -> float:
    """Value of metric number `index` of a call."""
    return ((step * 7919 + index * 104729 + writer) % 1_000_003) / 8


def points_of(name: Name) -> int:
    """Points of a record."""
    calls, width = size_of(name)
    return calls * width


def total_of(name: Name) -> float:
    """Sum of a record's values."""
    return sum(batch_of(name).value)


def batch_of(name: Name) -> MetricBatch:
    """A record as its trainer makes it."""
    writer, number = name
    calls, width = size_of(name)
    steps = list(range(number * RECORD_STEPS, number * RECORD_STEPS + calls))
    return MetricBatch(
        project="faults",
        run_id=f"run-{writer % 2}",
        attempt="a",
        writer=f"{writer:032x}",
        rank=writer,
        batch_seq=number,
        names=[f"m{index}" for index in range(width)],
        call_seq=steps,
        call_step=steps,
        call_at_ms=[1_700_000_000_000 + step for step in steps],
        call_n=[width] * calls,
        name_idx=list(range(width)) * calls,
        value=[value(writer, step, index) for step in steps for index in range(width)],
    )


class Feed:
    """Sends records, at once or in a thread of its own.

    Threads: `accepted` and `failures` grow in whatever thread sends; read them when it ended.
    """

    def __init__(self, kafka: KafkaSettings, topic: str, *, writers: int = 6) -> None:
        self.accepted: set[Name] = set()
        self.failures: list[str] = []
        self.sent = 0
        self._topic = topic
        self._writers = writers
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._config: dict[str, Any] = {
            **kafka.client_config(),
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "compression.type": "zstd",
            "message.max.bytes": 64 << 20,  # bad records are larger than ours
            "delivery.timeout.ms": int(FLUSH_S * 1000),
            "log_level": 0,
        }
        self._producer = Producer(self._config)

    def send(self, count: int) -> None:
        """Send N records and wait until all are acknowledged."""
        for name in self._names(count):
            self._produce(name)
        self.flush()

    def send_bad(
        self, values: Iterable[bytes], *, partition: int = 0, points: bytes | None = None
    ) -> None:
        """Send records that are no points, with this `points` header, and wait."""
        for bad in values:
            self._producer.produce(
                self._topic,
                bad,
                b"somebody",
                partition,
                on_delivery=self._note_bad,
                headers=[] if points is None else [("points", points)],
            )
        self.flush()

    def flush(self) -> None:
        """Wait until everything sent is acknowledged."""
        left = self._producer.flush(FLUSH_S)
        assert (left, self.failures) == (0, [])

    def begin(self, per_second: float = 120.0) -> None:
        """Send in the background."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(1.0 / per_second,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the background sending; everything sent is acknowledged then."""
        self.halt()
        self.flush()

    def halt(self) -> None:
        """End the background sending, whatever becomes of what was sent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def renew(self) -> None:
        """Forget what the client knows of the topic: it was made anew."""
        self._producer = Producer(self._config)

    def _run(self, pause_s: float) -> None:
        while not self._stop.is_set():
            begin_s = time.monotonic()
            for name in self._names(self._writers):
                self._produce(name)
            spent_s = time.monotonic() - begin_s
            self._stop.wait(max(0.0, pause_s * self._writers - spent_s))

    def _names(self, count: int) -> Iterator[Name]:
        for _ in range(count):
            number, writer = divmod(self.sent, self._writers)
            self.sent += 1
            yield writer, number

    def _produce(self, name: Name) -> None:
        def note(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self.accepted.add(name)
            else:
                self.failures.append(f"record {name}: {error}")

        data, key = codec.encode(batch_of(name)), f"{name[0]:032x}".encode()
        headers: list[tuple[str, str | bytes | None]] = [("points", str(points_of(name)).encode())]
        while True:
            try:
                self._producer.produce(self._topic, data, key, headers=headers, on_delivery=note)
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def _note_bad(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self.failures.append(f"a bad record: {error}")
