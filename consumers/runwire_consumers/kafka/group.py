"""Membership in the consumer group: its configuration and the partitions it assigns to us."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from runwire_consumers.core.errors import Fatal, Retryable
from runwire_consumers.core.health import SelfMetrics
from runwire_consumers.kafka.errors import FENCED, PASSING, REBALANCING, explain, retryable
from runwire_consumers.kafka.partition import (
    Partition,
    TopicIds,
    log_bounds,
    parse_intent,
    report_cut,
    report_outside,
)
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import kind_of_topic, topic_name

# Offsets and commits belong to the protocol (see source.py), so nothing is automatic.
_CONSUMER: Mapping[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # `_assign` begins a partition without an offset at its start
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "fetch.max.bytes": 52_428_800,
    "max.partition.fetch.bytes": 4_194_304,
    "fetch.queue.backoff.ms": 50,  # the default of 1 s stalls a hungry consumer
    "max.poll.interval.ms": 300_000,
    "allow.auto.create.topics": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """Settings of one consumer group and its members.

    `protocol` is "classic" or "consumer" (KIP-848); `session_timeout_s` applies to the classic one.
    `queued_bytes` limits the messages fetched ahead, `messages_max` those of one poll: with our
    largest message the default stays below 200 MB.
    """

    name: str
    kinds: Sequence[str]
    protocol: str = "classic"
    instance_id: str = ""
    session_timeout_s: float = 45.0
    queued_bytes: int = 64 * 1024 * 1024
    messages_max: int = 200

    def client_config(self) -> dict[str, Any]:
        """Return the librdkafka configuration of a member, without the connection."""
        config: dict[str, Any] = {**_CONSUMER, "group.id": self.name}
        config["queued.max.messages.kbytes"] = self.queued_bytes // 1024
        if self.instance_id:
            config["group.instance.id"] = self.instance_id
        if self.protocol == "consumer":  # the broker sets its timeouts
            return {**config, "group.protocol": "consumer"}
        session_ms = int(self.session_timeout_s * 1000)
        classic = {"partition.assignment.strategy": "cooperative-sticky"}
        # Three heartbeats in a session, as librdkafka's own default of 3 s in 45 s is generous.
        beat_ms = min(3000, session_ms // 3)
        return {
            **config,
            **classic,
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": beat_ms,
        }


_log = logging.getLogger("runwire.kafka")

COMMITTED_REQUEST_S = 10.0


class Group:
    """A consumer and its assigned partitions; it is reopened when a topic was recreated.

    Threads: one; callbacks run inside `consume` and `close`.
    """

    def __init__(self, kafka: KafkaSettings, settings: GroupSettings, metrics: SelfMetrics) -> None:
        self._kafka, self._settings, self._metrics = kafka, settings, metrics
        self.topics = [topic_name(kind, kafka.topic_prefix) for kind in settings.kinds]
        self.servers = kafka.bootstrap_servers
        self.partitions: dict[str, Partition] = {}
        self.is_paused = False
        self._lost: set[str] = set()
        self._losses = 0
        self._problem: KafkaError | None = None
        self._must_reopen = False
        self._consumer: Consumer | None = None
        self._ids = TopicIds(AdminClient(self._connection()), self.topics, self.servers)

    def consume(self, messages_max: int, timeout_s: float) -> list[Message]:
        """Return the messages and the ends of logs; errors are handled or raised.

        Blocks: at most `timeout_s`, longer while partitions are assigned.
        Raises: Retryable.
        """
        if self._must_reopen:
            self.reopen()
        consumer = self._open()
        losses_before = self._losses
        try:
            messages = consumer.consume(messages_max, timeout_s)
        except KafkaException as error:
            raise self._failed(error) from error
        good = [message for message in messages if self._is_good(message)]
        if self._losses != losses_before:
            self._seek_back(good)
            return []
        if self._problem is not None and not good:
            problem, self._problem = self._problem, None
            raise retryable(problem, self.servers)
        return good

    def partition_of(self, message: Message) -> Partition | None:
        """Return the partition of a message, None when it is not ours."""
        return self.partitions.get(f"{message.topic()}/{message.partition()}")

    def note_end(self, partition: Partition, offset: int) -> None:
        """Close a range to repeat that the log cannot complete any more.

        A new leader serves only records that it knew to be committed as a follower, until its own
        followers have fetched from it; the client takes that for the end, so the bounds are asked.
        Blocks: for one request, if the end is within the range.
        """
        if self._consumer is None or not partition.misses_records(offset):
            return
        bounds = log_bounds(self._consumer, partition)
        if bounds is None:
            self._must_reopen = True  # librdkafka reports an end only once
        elif bounds[1] <= offset:
            report_cut(partition, offset)
            partition.cut(offset)
            self.hold(partition)

    def commit(self, offsets: list[TopicPartition]) -> None:
        """Commit offsets with their metadata. Blocks: for one request. Raises: Retryable."""
        consumer = self._open()
        try:
            done = consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise self._failed(error) from error
        for offset in done:
            if offset.error is not None:
                raise self._failed(KafkaException(offset.error))

    def take_lost(self) -> frozenset[str]:
        """Return the partitions lost since the last call."""
        lost, self._lost = frozenset(self._lost), set()
        return lost

    def set_paused(self, *, is_paused: bool) -> None:
        """Stop or continue fetching, as a member of the group."""
        self.is_paused = is_paused
        self._apply_pause(self.partitions.values())

    def release(self, partition: Partition) -> None:
        """Continue fetching a partition whose repeated range is committed."""
        self._apply_pause([partition])

    def hold(self, partition: Partition) -> None:
        """Stop fetching a partition until its range is committed."""
        if self._consumer is not None:
            self._consumer.pause([TopicPartition(partition.topic, partition.number)])

    def check_topics(self) -> None:
        """Reopen when a topic was recreated: uncommitted records may be of the deleted one.

        Blocks: for one request. Raises: Retryable.
        """
        if self._consumer is not None and self._is_recreated():
            _log.warning("a topic was deleted and created again; reading it from its start")
            self.reopen()

    def reopen(self) -> None:
        """Leave the group and join again; uncommitted records are dropped."""
        self._forget(self.partitions)
        self.close()

    def close(self) -> None:
        """Leave the group. Blocks: until the coordinator knows."""
        consumer, self._consumer = self._consumer, None
        self._must_reopen = False
        if consumer is not None:
            consumer.close()

    def lag(self) -> dict[str, int]:
        """Return how many records follow the positions, by topic, without a request."""
        behind = dict.fromkeys(self.topics, 0)
        if self._consumer is None:
            return behind
        for partition in self.partitions.values():
            place = TopicPartition(partition.topic, partition.number)
            _, high = self._consumer.get_watermark_offsets(place, cached=True) or (0, -1)
            behind[partition.topic] += max(0, high - max(0, partition.next_offset))
        return behind

    def _open(self) -> Consumer:
        if self._consumer is None:
            self._ids.read()
            consumer = Consumer(self._connection() | self._settings.client_config())
            consumer.subscribe(
                self.topics, on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke
            )
            self._consumer = consumer
        return self._consumer

    def _connection(self) -> dict[str, Any]:
        quiet = {"log_level": 3, "logger": logging.getLogger("runwire.librdkafka")}
        return {**self._kafka.client_config(), "error_cb": self._note_problem, **quiet}

    def _assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        """Begin each new partition at its committed offset, or repeat its intent first."""
        self._metrics.add("runwire_worker_rebalances_total")
        try:
            places = consumer.committed(assigned, timeout=COMMITTED_REQUEST_S) if assigned else []
            for failed in (place.error for place in places if place.error is not None):
                raise KafkaException(failed)  # else it would count as no offset: begin at the start
            ids = self._ids.read() if assigned else self._ids.last
            for place in places:
                fresh = self._committed_partition(place, ids[place.topic])
                self.partitions[fresh.name] = fresh
            consumer.incremental_assign(places)
        except (KafkaException, Retryable) as error:
            _log.warning("cannot begin %d partitions (%s), joining again", len(assigned), error)
            self._must_reopen = True
            return
        self._metrics.set("runwire_worker_assigned_partitions", len(self.partitions))
        # Also to resume: a partition revoked while it was paused comes back paused.
        self._apply_pause(self.partitions.values(), consumer)

    def _committed_partition(self, place: TopicPartition, topic_id_now: str) -> Partition:
        """Return a partition at its committed offset, at its start if the topic was recreated."""
        topic_id, repeat = parse_intent(place.metadata)
        if place.offset < 0 or (topic_id and topic_id != topic_id_now):
            if place.offset >= 0:
                _log.warning("%s was recreated, its old offset is ignored", place.topic)
            place.offset, repeat = OFFSET_BEGINNING, None
        kind = kind_of_topic(place.topic, self._kafka.topic_prefix)
        return Partition(place.topic, place.partition, topic_id_now, kind, place.offset, repeat)

    def _revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        self._metrics.add("runwire_worker_rebalances_total")
        self._forget(f"{place.topic}/{place.partition}" for place in revoked)
        consumer.incremental_unassign(revoked)

    def _forget(self, names: Iterable[str]) -> None:
        for name in list(names):
            if self.partitions.pop(name, None) is not None:
                self._lost.add(name)
                self._losses += 1
        self._metrics.set("runwire_worker_assigned_partitions", len(self.partitions))

    def _seek_back(self, messages: list[Message]) -> None:
        """Fetch these messages again: some may be older than the loss of partitions."""
        names = {f"{message.topic()}/{message.partition()}" for message in messages}
        for name in names & self.partitions.keys():
            self._seek(self.partitions[name])

    def _apply_pause(
        self, partitions: Iterable[Partition], consumer: Consumer | None = None
    ) -> None:
        consumer = consumer or self._consumer
        if consumer is None:
            return
        places = [TopicPartition(p.topic, p.number) for p in partitions if not p.is_complete]
        if places:
            (consumer.pause if self.is_paused else consumer.resume)(places)

    def _is_recreated(self) -> bool:
        ids = self._ids.read()
        return any(p.topic_id != ids[p.topic] for p in self.partitions.values())

    def _is_good(self, message: Message) -> bool:
        error = message.error()
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            return True
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._begin_at_start(self.partition_of(message))
        else:
            self._note_problem(error)
        return False

    def _begin_at_start(self, partition: Partition | None) -> None:
        """Begin at the start of the log when the offset is outside: expired, or the log was cut."""
        if partition is None or self._consumer is None:
            return
        try:
            bounds = None if self._is_recreated() else log_bounds(self._consumer, partition)
        except Retryable as error:
            _log.warning("cannot look up the topic of %s (%s)", partition.name, error)
            bounds = None
        if bounds is None:
            self._must_reopen = True
            return
        low, high = bounds
        report_outside(partition, low, high)
        if low < partition.next_offset:
            # Cut: the records read and not committed are no longer part of it.
            self._forget([partition.name])
            p = partition
            partition = Partition(p.topic, p.number, p.topic_id, p.kind, low)
            self.partitions[partition.name] = partition
        partition.next_offset = low
        if partition.repeat is not None and partition.repeat.last < low:
            partition.is_complete = True
        self._seek(partition)

    def _seek(self, partition: Partition) -> None:
        """Resume fetching at the partition's next offset."""
        consumer = self._open()
        place = TopicPartition(partition.topic, partition.number, partition.next_offset)
        try:
            try:
                consumer.seek(place)
            except KafkaException:  # an offset error has ended the fetching
                consumer.incremental_unassign([place])
                consumer.incremental_assign([place])
            self._apply_pause([partition], consumer)
        except KafkaException as error:
            _log.warning("cannot seek in %s (%s), joining again", partition.name, error)
            self._must_reopen = True

    def _note_problem(self, error: KafkaError) -> None:
        if error.code() not in PASSING:
            self._problem = error

    def _failed(self, error: KafkaException) -> Retryable:
        """Return the Retryable of a failed call. Raises: Fatal where waiting cannot help."""
        (cause,) = error.args
        if cause.code() in FENCED:
            # Rejoining is slower than the client's own recovery, but leaves no partition that the
            # client still fetches and we no longer count as ours.
            self._must_reopen = True
            self._forget(self.partitions)
            return Retryable(0.05, f"the group continued without this worker ({cause.name()})")
        if cause.code() in REBALANCING:
            return Retryable(0.05, "the group is rebalancing")
        if cause.fatal() and cause.code() != KafkaError._FATAL:
            raise Fatal(explain(cause, self.servers))
        return retryable(cause, self.servers)
