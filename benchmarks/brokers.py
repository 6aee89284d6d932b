"""Kafka for a benchmark: the brokers of RUNWIRE_TEST_KAFKA, else a real one started here."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic

from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import TOPICS, topic_name

NATIVE = Path(__file__).parents[1] / "deploy" / "native" / "servers.py"


@contextlib.contextmanager
def topics() -> Iterator[dict[str, str]]:
    """Create fresh topics; yield the environment for trainers, agents and workers."""
    with broker() as kafka:
        prefix = f"bench{uuid.uuid4().hex[:8]}"
        make_topics(kafka, prefix)
        named = {"RUNWIRE_KAFKA_TOPIC_PREFIX": prefix, "RUNWIRE_WORKER_GROUP": prefix}
        yield kafka.environment() | named


@contextlib.contextmanager
def broker() -> Iterator[KafkaSettings]:
    """Yield the address of a broker; one that was started here is stopped at the end."""
    given = os.environ.get("RUNWIRE_TEST_KAFKA")
    if given:
        yield KafkaSettings(bootstrap_servers=given)
        return
    subprocess.run([sys.executable, str(NATIVE), "start", "kafka"], check=True, stdout=sys.stderr)
    try:
        status = subprocess.run(
            [sys.executable, str(NATIVE), "status"], check=True, capture_output=True, text=True
        )
        (line,) = (row for row in status.stdout.splitlines() if row.startswith("kafka "))
        yield KafkaSettings(bootstrap_servers=line.split()[3])
    finally:
        subprocess.run(
            [sys.executable, str(NATIVE), "stop", "kafka"], check=True, stdout=sys.stderr
        )


def make_topics(kafka: KafkaSettings, prefix: str) -> None:
    """Create all topics with the partitions of the table."""
    admin = AdminClient(kafka.client_config())
    new = [
        NewTopic(
            topic_name(row.kind, prefix),
            num_partitions=row.partitions,
            config={"message.timestamp.type": "LogAppendTime", "max.message.bytes": "20971520"},
        )
        for row in TOPICS.values()
    ]
    for future in admin.create_topics(new).values():
        future.result()
