"""The check of `runwire doctor` for the Kafka route, where brokers are named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runwire_consumers.core.errors import Fatal, Retryable
from runwire_disk.survey import FAIL, OK, WARN, Finding, Section
from runwire_schemas.connections import kafka as kafka_settings
from runwire_schemas.topics import TOPICS, topic_name

if TYPE_CHECKING:
    from runwire_consumers.kafka.admin import KafkaAdmin


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
        TopicIds(cluster.admin, names, cluster.connection).read()
    except (Retryable, Fatal) as error:
        return [answers, Finding(FAIL, "topics", "some are missing or hidden", str(error))]
    exist = Finding(OK, "topics", f"all {len(names)} exist")
    letters = _letters_findings(settings)
    return [answers, exist, *letters, *_settings_findings(cluster, settings.topic_prefix)]


def _letters_findings(settings: kafka_settings.KafkaSettings) -> list[Finding]:
    """Return how many letters the topic has; nothing for a user that may not read it."""
    from runwire_consumers.kafka.dead_letters import KafkaDeadLetters

    check = "dead letters in Kafka"
    letters = KafkaDeadLetters(settings)
    try:
        count = letters.count()
    except (Retryable, Fatal):
        return []  # an agent's user may only write there
    finally:
        letters.close()
    if not count:
        return [Finding(OK, check, "none")]
    advice = (
        "`runwire dead-letters ls` names reasons, `replay` stores and `rm` deletes them; workers "
        "stop at RUNWIRE_WORKER_DEAD_LETTERS_MAX"
    )
    return [Finding(WARN, check, f"{count:,}", advice)]


def _settings_findings(cluster: KafkaAdmin, prefix: str) -> list[Finding]:
    """Return a finding per topic that has less than ours; one when none has."""
    from runwire_consumers.kafka import topics

    check = "topic settings"
    try:
        differing = topics.compare(cluster, prefix=prefix)
    except Fatal as error:
        return [Finding(OK, check, f"not compared: {error}")]
    findings = []
    for name in sorted({one.topic for one in differing}):
        ours = [one for one in differing if one.topic == name]
        facts = ", ".join(f"{one.name} is {one.found}, ours is {one.wanted}" for one in ours)
        advice = "`runwire migrate --fix` sets it"
        if not all(one.can_fix for one in ours):
            advice += "; kafka-reassign-partitions.sh changes the number of copies"
        if name == topic_name("deadletter", prefix) and any(
            one.name == "max.message.bytes" for one in ours
        ):
            advice += "; until then only the beginning of a larger bad record is kept"
        findings.append(Finding(WARN, check, f"{name}: {facts}", advice))
    return findings or [Finding(OK, check, "as ours, or more")]
