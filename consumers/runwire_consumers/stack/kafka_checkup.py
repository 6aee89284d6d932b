"""The check of `runwire doctor` for the Kafka route, where brokers are named."""

from __future__ import annotations

from collections.abc import Mapping

from runwire_consumers.core.errors import Fatal, Retryable
from runwire_consumers.stack.finding import FAIL, OK, Finding
from runwire_schemas.connections import kafka as kafka_settings
from runwire_schemas.topics import TOPICS, topic_name


def kafka_findings(environ: Mapping[str, str]) -> list[Finding]:
    """Ask the brokers and look for the topics; nothing where no brokers are named.

    Blocks: up to 10 s when nobody answers.
    """
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
        return [answers, Finding(FAIL, "topics", "not all can be seen", error.reason)]
    return [answers, Finding(OK, "topics", f"all {len(names)} are there")]
