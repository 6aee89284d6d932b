"""Topics, messages and groups for tests against a real broker."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from runwire_consumers.core.source import Record
from runwire_consumers.kafka.group_settings import GroupSettings
from runwire_consumers.kafka.source import KafkaSource
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import topic_name

# A test's group is small and local: members that died are noticed soon.
SESSION_S = 6.0
JOIN_S = 30.0


def make_topics(
    kafka: KafkaSettings, prefix: str, kinds: Iterable[str], *, partitions: int = 2
) -> None:
    """Create topics and wait until the leaders of all their partitions answer."""
    admin = AdminClient(kafka.client_config())
    config = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "20971520"}
    new = [
        NewTopic(topic_name(kind, prefix), num_partitions=partitions, config=config)
        for kind in kinds
    ]
    for future in admin.create_topics(new).values():
        future.result()
    deadline_s = time.monotonic() + 15.0
    ends = {
        TopicPartition(topic.topic, number): OffsetSpec.latest()
        for topic in new
        for number in range(partitions)
    }
    while True:
        try:
            for end in admin.list_offsets(ends, request_timeout=5).values():
                end.result()
            return
        except KafkaException:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)


def send(
    kafka: KafkaSettings, topic: str, records: Iterable[Record], *, partition: int = -1
) -> None:
    """Produce records as the agent does and wait until they are acknowledged."""
    producer = Producer({**kafka.client_config(), "enable.idempotence": True, "log_level": 3})
    for record in records:
        while True:
            try:
                producer.produce(
                    topic,
                    key=record.key,
                    value=record.value,
                    partition=partition,
                    headers=[("points", str(record.points).encode())] if record.points else None,
                )
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(30):
        raise KafkaException(f"messages for {topic} were not acknowledged")


def joined(source: KafkaSource) -> bool:
    """Whether the group has assigned partitions to this source."""
    return bool(source.assigned)


def group(prefix: str, kinds: Iterable[str], *, protocol: str = "classic") -> GroupSettings:
    """A group of its own for the test with this prefix."""
    return GroupSettings(
        name=f"{prefix}.worker",
        kinds=tuple(kinds),
        protocol=protocol,
        session_timeout_s=SESSION_S,
    )
