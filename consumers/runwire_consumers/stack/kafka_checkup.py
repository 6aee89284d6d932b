"""The check of `runwire doctor` for the Kafka route, where brokers are named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from runwire_consumers.core.errors import Fatal, Retryable
from runwire_disk.survey import FAIL, OK, Finding, Section
from runwire_schemas.connections import kafka as kafka_settings
from runwire_schemas.topics import TOPICS, topic_name


def check_kafka(root: Path) -> Section:  # noqa: ARG001 - the signature of every check
    """Check the brokers of the environment. Blocks: up to 10 s when none answers."""
    return Section(name="kafka", order=70, findings=kafka_findings(os.environ))


def kafka_findings(environ: Mapping[str, str]) -> list[Finding]:
    """Return whether the brokers answer and have the topics; nothing without brokers."""
    try:
        settings = kafka_settings.from_environment(environ)
    except kafka_settings.KafkaSettingsError as error:
        return [Finding(FAIL, "kafka", "its settings contradict each other", str(error))]
    if settings is None:
        return []
    from runwire_consumers.kafka.admin import KafkaAdmin
    from runwire_consumers.kafka.partition import TopicIds

    cluster = KafkaAdmin(settings)
    try:
        brokers = cluster.brokers()
    except Fatal as error:
        return [Finding(FAIL, "kafka", f"{settings.bootstrap_servers} cannot be used", str(error))]
    answers = Finding(OK, "kafka", f"{brokers} brokers at {settings.bootstrap_servers}")
    names = [topic_name(kind, settings.topic_prefix) for kind in TOPICS]
    try:
        TopicIds(cluster.admin, names, settings.bootstrap_servers).read()
    except Retryable as error:
        return [answers, Finding(FAIL, "topics", "some are missing or hidden", error.reason)]
    return [answers, Finding(OK, "topics", f"all {len(names)} exist")]
