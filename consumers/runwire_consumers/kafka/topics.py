"""Topics of a cluster, brought to the topics table: created, grown, compared, fixed on request.

Nothing is deleted and no partition count is lowered. A configuration that differs is changed only
with `fix`. Running it again changes nothing. A longer retention and a higher limit than ours are no
differences: to lower one could lose records.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, TopicCollection
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
)

from runwire_consumers.kafka.admin import ADMIN_REQUEST_S, KafkaAdmin
from runwire_schemas.topics import TOPICS, Topic, replication, topic_name

# A created topic reaches the other brokers by the metadata log: usually within 0.1 s.
_VISIBLE_S = 10.0
_MORE_IS_FINE = frozenset(("max.message.bytes", "retention.ms"))
_EXISTS = frozenset((KafkaError.TOPIC_ALREADY_EXISTS,))
_MISSING = frozenset((KafkaError.UNKNOWN_TOPIC_OR_PART,))
# INVALID_PARTITIONS: a concurrent run was faster and the topic has this many already.
_GROWN = frozenset((KafkaError.INVALID_PARTITIONS,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A setting of a topic that differs from the table; `can_fix` when `--fix` can set it."""

    topic: str
    name: str
    found: str
    wanted: str
    can_fix: bool = True


@dataclass(slots=True)
class TopicChanges:
    """Changes made to topics, and the differences left as they are."""

    created: list[str] = field(default_factory=list)
    grown: list[Difference] = field(default_factory=list)
    fixed: list[Difference] = field(default_factory=list)
    differing: list[Difference] = field(default_factory=list)


def apply(cluster: KafkaAdmin, *, prefix: str = "", fix: bool = False) -> TopicChanges:
    """Bring the cluster's topics to the table; differing settings are set only with `fix`.

    Raises: Fatal when a request is refused (NotAuthorized where a right is missing); changes made
    before stay, and another run completes them.
    """
    brokers = cluster.brokers()
    wanted = {topic_name(kind, prefix): topic for kind, topic in TOPICS.items()}
    changes = TopicChanges()
    found = _describe(cluster, list(wanted))
    missing = {name: topic for name, topic in wanted.items() if name not in found}
    if missing:
        changes.created = _create(cluster, missing, brokers)
        found = _wait_visible(cluster, list(wanted), {})
    changes.grown = _grow(cluster, wanted, found)
    if changes.grown:
        counts = {change.topic: int(change.wanted) for change in changes.grown}
        found = _wait_visible(cluster, list(wanted), counts)
    differing = _compare(cluster, wanted, found, brokers)
    if fix:
        changes.fixed = [difference for difference in differing if difference.can_fix]
        _fix(cluster, changes.fixed)
        differing = [difference for difference in differing if not difference.can_fix]
    changes.differing = differing
    return changes


def compare(cluster: KafkaAdmin, *, prefix: str = "") -> list[Difference]:
    """Return what `apply` would change in existing topics, and what it would only report.

    Raises: Fatal when a request is refused (NotAuthorized where a right is missing).
    """
    brokers = cluster.brokers()
    wanted = {topic_name(kind, prefix): topic for kind, topic in TOPICS.items()}
    found = _describe(cluster, list(wanted))
    return _too_few_partitions(wanted, found) + _compare(cluster, wanted, found, brokers)


def commands(servers: str, *, prefix: str = "", brokers: int) -> list[str]:
    """Return shell commands that create the topics, for an administrator."""
    lines = []
    for kind, topic in TOPICS.items():
        words = ["kafka-topics.sh", "--bootstrap-server", servers, "--create", "--if-not-exists"]
        words += ["--topic", topic_name(kind, prefix), "--partitions", str(topic.partitions)]
        words += ["--replication-factor", str(replication(brokers)[0])]
        for name, value in topic.configuration(brokers=brokers).items():
            words += ["--config", f"{name}={value}"]
        lines.append(shlex.join(words))
    return lines


def _describe(cluster: KafkaAdmin, names: list[str]) -> dict[str, Any]:
    futures = cluster.admin.describe_topics(TopicCollection(names), request_timeout=ADMIN_REQUEST_S)
    return cluster.answers(futures, lambda n: f"topic {n} cannot be described", ignored=_MISSING)


def _create(cluster: KafkaAdmin, missing: dict[str, Topic], brokers: int) -> list[str]:
    new = [
        NewTopic(
            name,
            num_partitions=topic.partitions,
            replication_factor=replication(brokers)[0],
            config=topic.configuration(brokers=brokers),
        )
        for name, topic in missing.items()
    ]
    futures = cluster.admin.create_topics(new, request_timeout=ADMIN_REQUEST_S)
    made = cluster.answers(futures, lambda n: f"topic {n} cannot be created", ignored=_EXISTS)
    return list(made)


def _wait_visible(cluster: KafkaAdmin, names: list[str], counts: dict[str, int]) -> dict[str, Any]:
    """Return the topics once every partition exists and has a leader, or after a while."""
    deadline = time.monotonic() + _VISIBLE_S
    while True:
        found = _describe(cluster, names)
        ready = len(found) == len(names) and all(
            len(topic.partitions) >= counts.get(name, 1)
            and all(partition.leader is not None for partition in topic.partitions)
            for name, topic in found.items()
        )
        if ready or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _grow(cluster: KafkaAdmin, wanted: dict[str, Topic], found: dict[str, Any]) -> list[Difference]:
    grown = _too_few_partitions(wanted, found)
    if grown:
        new = [NewPartitions(change.topic, int(change.wanted)) for change in grown]
        futures = cluster.admin.create_partitions(new, request_timeout=ADMIN_REQUEST_S)
        cluster.answers(futures, lambda n: f"topic {n} cannot get more partitions", ignored=_GROWN)
    return grown


def _too_few_partitions(wanted: dict[str, Topic], found: dict[str, Any]) -> list[Difference]:
    return [
        Difference(
            topic=name,
            name="partitions",
            found=str(len(found[name].partitions)),
            wanted=str(topic.partitions),
        )
        for name, topic in wanted.items()
        if name in found and len(found[name].partitions) < topic.partitions
    ]


def _compare(
    cluster: KafkaAdmin, wanted: dict[str, Topic], found: dict[str, Any], brokers: int
) -> list[Difference]:
    resources = [_resource(name) for name in wanted if name in found]
    futures = cluster.admin.describe_configs(resources, request_timeout=ADMIN_REQUEST_S)
    answers = cluster.answers(
        futures, lambda r: f"the configuration of topic {r.name} cannot be read", ignored=_MISSING
    )
    differing = []
    for resource, entries in answers.items():
        name = resource.name
        copies = min(len(p.replicas) for p in found[name].partitions)
        if copies < replication(brokers)[0]:
            want = str(replication(brokers)[0])
            differing.append(
                Difference(
                    topic=name,
                    name="replication.factor",
                    found=str(copies),
                    wanted=want,
                    can_fix=False,
                )
            )
        # For the existing copies: more in-sync replicas than copies would stop all writing.
        for key, value in wanted[name].configuration(brokers=copies).items():
            now = entries[key].value if key in entries else None
            if now != value and not _is_more(key, now, value):
                differing.append(Difference(topic=name, name=key, found=str(now), wanted=value))
    return differing


def _is_more(key: str, now: str | None, wanted: str) -> bool:
    """Whether a topic keeps records longer, or takes larger ones, than ours; -1 keeps for ever."""
    if key not in _MORE_IS_FINE or now is None or not now.lstrip("-").isdecimal():
        return False
    return int(now) > int(wanted) or (key == "retention.ms" and int(now) == -1)


def _fix(cluster: KafkaAdmin, differences: list[Difference]) -> None:
    changes: dict[str, list[ConfigEntry]] = {}
    for difference in differences:
        entry = ConfigEntry(
            difference.name, difference.wanted, incremental_operation=AlterConfigOpType.SET
        )
        changes.setdefault(difference.topic, []).append(entry)
    if changes:
        resources = [_resource(name, entries) for name, entries in changes.items()]
        futures = cluster.admin.incremental_alter_configs(
            resources, request_timeout=ADMIN_REQUEST_S
        )
        cluster.answers(futures, lambda r: f"the configuration of topic {r.name} cannot be changed")


def _resource(name: str, changes: list[ConfigEntry] | None = None) -> ConfigResource:
    return ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=changes)
