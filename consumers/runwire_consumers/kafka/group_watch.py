"""The consumer group seen as a whole: foreign users of its name, and partitions nobody reads.

A member alone sees neither: its partitions are few because others have the rest, or because nobody
has it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from runwire_consumers.core.errors import Fatal
from runwire_consumers.kafka.partition import BOUNDS_REQUEST_S, Partition
from runwire_schemas.topics import TOPICS, topic_name

_log = logging.getLogger("runwire.kafka")
GROUP_REQUEST_S: Final = 10.0
# A group settles within a few checks after a change.
UNREAD_CHECKS: Final = 3
# A transaction of a living producer ends within a minute (its default transaction.timeout.ms).
HELD_BACK_CHECKS: Final = 13


class GroupWatch:
    """Looks at one group for one of its members. Threads: one."""

    def __init__(self, name: str, topics: Sequence[str], prefix: str) -> None:
        self._name = name
        names = {topic_name(kind, prefix): topic.partitions for kind, topic in TOPICS.items()}
        # Asked by the consumer: librdkafka 2.16 may crash where the same question to an admin
        # client meets a coordinator that is still loading.
        self._others = [
            TopicPartition(topic, number)
            for topic, count in names.items()
            for number in range(count)
            if topic not in topics
        ]
        self._unread_checks = 0
        # By partition: the offset it stands at, and for how many checks.
        self._standing: dict[str, tuple[int, int]] = {}

    def refuse_other_kind(self, consumer: Consumer) -> None:
        """Refuse a group in which workers of the other kind have committed offsets.

        Blocks: for one request. Raises: Fatal, since each artifact would reach only one of both.
        """
        try:
            found = consumer.committed(self._others, timeout=GROUP_REQUEST_S)
        except KafkaException as error:
            _log.debug("cannot look up the offsets of group %s (%s)", self._name, error)
            return  # joining says it better
        for place in found:
            if place.error is None and place.offset >= 0:
                raise Fatal(
                    f"consumer group {self._name!r} is used by workers of the other kind, which "
                    f"read {place.topic}: each artifact would reach only one of both. Give "
                    f"RUNWIRE_WORKER_GROUP and RUNWIRE_WORKER_OBJECTS_GROUP two names that no "
                    f"other workers have used"
                )

    def unread(self, admin: AdminClient, member: str, partitions: Mapping[str, int]) -> str:
        """Return a sentence when this member has no partitions although some have no reader.

        Empty otherwise, and where the group cannot be described. Blocks: for one request.
        """
        places = {(topic, n) for topic, count in partitions.items() for n in range(count)}
        read = self._read_by_members(admin, member)
        free = places - (places if read is None else read)
        self._unread_checks = self._unread_checks + 1 if free else 0
        if self._unread_checks < UNREAD_CHECKS:
            return ""
        topic, number = min(free)
        return (
            f"group {self._name!r} gives this worker no partitions, and {len(free)} have no reader "
            f"({topic}/{number}, ...): does another pipeline use this group? Set "
            f"RUNWIRE_WORKER_GROUP (object workers: RUNWIRE_WORKER_OBJECTS_GROUP) to a name of "
            f"this pipeline's own, and check that the users of "
            f"all members may READ and DESCRIBE the topics"
        )

    def report_held_back(self, consumer: Consumer, partitions: Mapping[str, Partition]) -> None:
        """Log partitions whose new records have waited behind an open transaction for a minute.

        Blocks: for one request per such partition, once.
        """
        before, self._standing = self._standing, {}
        for name, partition in partitions.items():
            place = TopicPartition(partition.topic, partition.number)
            _, high = consumer.get_watermark_offsets(place, cached=True) or (0, -1)
            if high <= max(0, partition.next_offset):
                continue
            offset, checks = before.get(name, (-1, 0))
            checks = checks + 1 if offset == partition.next_offset else 1
            self._standing[name] = (partition.next_offset, checks)
            if checks == HELD_BACK_CHECKS:
                _report_transaction(consumer, place, name, high)

    def _read_by_members(self, admin: AdminClient, member: str) -> set[tuple[str, int]] | None:
        """Return what the members read; None while unknown, and while this is no member."""
        future = admin.describe_consumer_groups([self._name], request_timeout=GROUP_REQUEST_S)
        try:
            group = future[self._name].result()
        except KafkaException as error:
            _log.debug("cannot describe group %s (%s)", self._name, error)
            return None
        is_member = any(one.member_id == member for one in group.members)
        if group.state != ConsumerGroupState.STABLE or not is_member:
            return None
        return {
            (place.topic, place.partition)
            for one in group.members
            for place in one.assignment.topic_partitions
        }


def records_behind(
    consumer: Consumer | None, topics: Sequence[str], partitions: Iterable[Partition]
) -> dict[str, int]:
    """Return how many records follow the positions, by topic, without a request."""
    behind = dict.fromkeys(topics, 0)
    if consumer is None:
        return behind
    for partition in partitions:
        place = TopicPartition(partition.topic, partition.number)
        _, high = consumer.get_watermark_offsets(place, cached=True) or (0, -1)
        behind[partition.topic] += max(0, high - max(0, partition.next_offset))
    return behind


def _report_transaction(consumer: Consumer, place: TopicPartition, name: str, high: int) -> None:
    try:
        _, readable = consumer.get_watermark_offsets(place, timeout=BOUNDS_REQUEST_S)
    except KafkaException as error:
        _log.debug("cannot look up the end of %s (%s)", name, error)
        return
    if readable < high:
        _log.warning(
            "%s: %d records from offset %d on wait behind a transaction that another program has "
            "not ended; they are read once it ends. Find it with `kafka-transactions.sh "
            "find-hanging` and end it with `abort`",
            name,
            high - readable,
            readable,
        )
