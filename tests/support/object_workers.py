"""Object workers as processes of a test, and an agent's messages for them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from runwire_schemas import codec
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.connections.s3 import S3Settings
from runwire_schemas.events import ArtifactEvent, Chunk, DeadLetter
from runwire_schemas.topics import topic_name
from support.topics import SESSION_S, make_topics

KINDS = ("chunk", "artifact", "deadletter")
PATIENCE_S = 90.0


class ObjectWorkers:
    """The object workers of one test: one prefix of topics, one bucket; `close` ends them."""

    def __init__(self, kafka: KafkaSettings, prefix: str, s3: S3Settings, folder: Path) -> None:
        self.kafka = replace(kafka, topic_prefix=prefix)
        self.prefix, self.s3, self.folder = prefix, s3, folder
        self._looking = kafka
        self.log = folder / "object-worker.log"
        self.processes: list[subprocess.Popen[bytes]] = []
        make_topics(kafka, prefix, KINDS)
        self._producer = Producer(
            {**kafka.client_config(), "enable.idempotence": True, "message.max.bytes": 20_000_000}
        )

    def start(self, **settings: object) -> subprocess.Popen[bytes]:
        """Start one; settings are those of RUNWIRE_WORKER_*."""
        values = {
            "batch_age_s": 0.2,
            "retry_max_s": 0.5,
            "objects_group": f"{self.prefix}.objects",
            "session_timeout_s": SESSION_S,
            **settings,
        }
        environ = {f"RUNWIRE_WORKER_{name.upper()}": str(value) for name, value in values.items()}
        words = [sys.executable, "-m", "runwire_consumers", "objects", "--metrics-port", "0"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*words, "--dir", str(self.folder)],
                env=os.environ | self.kafka.environment() | self.s3.environment() | environ,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def send(self, events: Iterable[Chunk | ArtifactEvent]) -> None:
        """Produce as an agent does, and wait for the acknowledgements."""
        for event in events:
            kind = "chunk" if isinstance(event, Chunk) else "artifact"
            self._produce(kind, codec.encode(event), event.artifact)
        assert self._producer.flush(60) == 0

    def send_bytes(self, kind: str, value: bytes) -> None:
        """Produce any bytes, also invalid messages."""
        self._produce(kind, value, "")
        assert self._producer.flush(60) == 0

    def completions(self) -> list[ArtifactEvent]:
        """Events about artifacts that the workers have sent so far."""
        found = [event for event in self._read("artifact") if isinstance(event, ArtifactEvent)]
        return [event for event in found if event.event != "shipped"]

    def letters(self) -> list[DeadLetter]:
        """The dead letters."""
        return [event for event in self._read("deadletter") if isinstance(event, DeadLetter)]

    def wait(self, what: str, ready: Callable[[], bool]) -> None:
        """Wait for a state; the workers' log is in the failure."""
        end_s = time.monotonic() + PATIENCE_S
        while not ready():
            if time.monotonic() > end_s:
                log = self.log.read_text()[-4000:]
                raise AssertionError(f"not within {PATIENCE_S:.0f} s: {what}\n{log}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End all in order. Raises: AssertionError unless each exits with 0 or was killed."""
        for process in self.processes:
            process.terminate()
        # A member may have to wait for the group, and for its coordinator, before it can leave.
        codes = [process.wait(PATIENCE_S) for process in self.processes]
        assert set(codes) <= {0, -9}, self.log.read_text()[-4000:]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def _produce(self, kind: str, value: bytes, key: str) -> None:
        while True:
            try:
                topic = topic_name(kind, self.prefix)
                self._producer.produce(topic, value, key, on_delivery=_check)
                return
            except BufferError:
                self._producer.poll(0.1)

    def _read(self, kind: str) -> list[object]:
        topic = topic_name(kind, self.prefix)
        consumer = Consumer({**self._looking.client_config(), "group.id": f"{self.prefix}.look"})
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            ends = {}
            for number in partitions:
                low, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
                if end > low:
                    ends[number] = (low, end)
            consumer.assign([TopicPartition(topic, n, low) for n, (low, _) in ends.items()])
            found = []
            while ends:
                for message in consumer.consume(100, 1.0):
                    assert message.error() is None, message.error()
                    found.append(codec.decode(message.value() or b""))
                    number, offset = message.partition() or 0, message.offset() or 0
                    if offset + 1 >= ends.get(number, (0, 0))[1]:
                        ends.pop(number, None)
            return found
        finally:
            consumer.close()


def _check(error: KafkaError | None, _: Message) -> None:
    assert error is None, error
