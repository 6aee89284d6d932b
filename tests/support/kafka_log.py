"""Reader of whole topics, as an independent consumer."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, TopicPartition

from runwire_agent.ship.broker import Message
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import topic_name

PATIENCE_S = 30.0


def read_topic(settings: KafkaSettings, kind: str) -> list[Message]:
    """Every message in the topic of `kind` now; order holds within a key."""
    name = topic_name(kind, settings.topic_prefix)
    consumer = Consumer({**settings.client_config(), "group.id": f"{name}-test", "log_level": 0})
    try:
        partitions = consumer.list_topics(name, timeout=PATIENCE_S).topics[name].partitions
        places = [TopicPartition(name, number, 0) for number in partitions]
        ends = (consumer.get_watermark_offsets(p, timeout=PATIENCE_S)[1] for p in places)
        total = sum(ends)
        consumer.assign(places)
        found: list[Message] = []
        deadline_s = time.monotonic() + PATIENCE_S
        while len(found) < total:
            got = consumer.consume(1000, 0.2)
            late = time.monotonic() >= deadline_s
            assert not late, f"{len(found)} of {total} messages of {name} arrived"
            assert not any(message.error() for message in got)
            found += [
                Message(kind, m.key(), m.value(), int(dict(m.headers() or []).get("points", 0)))
                for m in got
            ]
        return found
    finally:
        consumer.close()
