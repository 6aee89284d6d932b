"""Membership in the consumer group, and the partitions that it assigns to us."""

import logging
import time
from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.health import SelfMetrics
from runwire_consumers.kafka.connection import Connection
from runwire_consumers.kafka.damaged import DamagedBatch, measure
from runwire_consumers.kafka.errors import (
    FENCED,
    PASSING,
    REBALANCING,
    Treatment,
    cause_of,
    treatment,
)
from runwire_consumers.kafka.group_settings import CONSUMER, GroupSettings
from runwire_consumers.kafka.group_watch import GroupWatch, records_behind
from runwire_consumers.kafka.partition import (
    Partition,
    TopicIds,
    log_bounds,
    partition_at,
    report_cut,
    report_outside,
)
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import topic_name

_log = logging.getLogger("runwire.kafka")

COMMITTED_REQUEST_S = 10.0
GATHER_BYTES = 1024 * 1024  # a poll goes on below it: small records cost less together
REOPEN_S = 1.0  # pace of new memberships after errors that end a client


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
        self._must_reopen = self._is_leaving = False
        self._fatal: KafkaError | None = None
        self._open_at_s = 0.0
        self._consumer: Consumer | None = None
        self._connection = Connection(kafka)
        self._config = self._connection.config()
        self._renew_admin()
        self._watch = GroupWatch(settings.name, self.topics, kafka.topic_prefix)
        # By partition: the first offset of a damaged batch. What librdkafka (2.16) yields behind
        # one in the same answer is unreliable, for it goes on at a wrong place: no errors of the
        # partition count until it was sent elsewhere, and not the first one then.
        self._damaged: dict[str, int] = {}
        self._unsettled: set[str] = set()

    def consume(self, messages_max: int, timeout_s: float) -> list[Message]:
        """Return the messages and the ends of logs; errors are handled or raised.

        Blocks: at most `timeout_s`, longer while partitions are assigned.
        Raises: Retryable.
        """
        self._renew()
        if self._must_reopen:
            self.reopen()
        consumer = self._open()
        losses_before = self._losses
        try:
            messages = more = consumer.consume(messages_max, timeout_s)
            while len(more) == messages_max and sum(map(len, messages)) < GATHER_BYTES:
                messages = messages + (more := consumer.consume(messages_max, 0.0))
        except KafkaException as error:
            self._must_reopen = True  # what these calls fetched is gone: it is fetched again
            raise self._failed(error) from error
        good = [message for message in messages if self._is_good(message)]
        if self._fatal is not None:
            raise self._ended(self._fatal)
        if good:
            self._connection.worked()
        if self._losses != losses_before:
            self._seek_back(good)
            self._damaged.clear()
            return []
        problem, self._problem = self._problem, None
        if problem is not None and not good:
            raise self._connection.failed(problem)
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

    def take_damaged(self) -> list[tuple[Partition, DamagedBatch]]:
        """Return the damaged batches met since the last call; `skip` behind each.

        Blocks: for a dozen requests each. Raises: Retryable; the next call measures the rest.
        """
        found = []
        config = {**self._config, **CONSUMER, "group.id": self._settings.name}
        for name, batch in list(self._damaged.items()):
            if (partition := self.partitions.get(name)) is not None:
                damage = measure(config, partition, batch, self._connection.failed)
                if damage is None:
                    self.skip(partition)
                else:
                    found.append((partition, damage))
            del self._damaged[name]
        return found

    def skip(self, partition: Partition) -> None:
        """Continue fetching behind a damaged batch that was taken."""
        self._unsettled.add(partition.name)
        self._seek(partition)

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
        self._connection.worked()

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
        self._renew()  # the request below would fail as long as it has an old password
        if self._consumer is not None and self._is_recreated():
            _log.warning("a topic was deleted and created again; reading it from its start")
            self.reopen()

    def check_members(self) -> str:
        """Return why this member reads nothing although it should; look for what holds it back.

        Blocks: for two requests. Raises: Fatal in a group of the other kind of worker; Retryable.
        """
        if self._consumer is None:
            return ""
        self._watch.refuse_other_kind(self._consumer)
        self._watch.report_held_back(self._consumer, self.partitions)
        if self.partitions:
            return ""
        member = str(self._consumer.memberid() or "")
        return self._watch.unread(self._admin, member, self._ids.partitions)

    def reopen(self) -> None:
        """Leave the group and join again; uncommitted records are dropped."""
        self._forget(self.partitions)
        self.close()

    def close(self) -> None:
        """Leave the group. Blocks: until the coordinator knows."""
        consumer, self._consumer = self._consumer, None
        self._must_reopen, self._fatal, self._problem = False, None, None
        self._damaged.clear()
        self._unsettled.clear()
        if consumer is not None:
            self._is_leaving = True
            try:
                consumer.close()
            finally:
                self._is_leaving = False

    def lag(self) -> dict[str, int]:
        """Return how many records follow the positions, by topic, without a request."""
        return records_behind(self._consumer, self.topics, self.partitions.values())

    def _open(self) -> Consumer:
        if self._consumer is None:
            if (left_s := self._open_at_s - time.monotonic()) > 0:
                raise Retryable(left_s, "the membership in the group begins again")
            if self._connection.has_new_files:
                self._config = self._connection.config_or_wait()
                self._renew_admin()
            self._ids.read()
            own = {**self._settings.client_config(), "error_cb": self._note_problem}
            consumer = Consumer({**self._config, **own})
            self._watch.refuse_other_kind(consumer)
            consumer.subscribe(
                self.topics, on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke
            )
            self._consumer = consumer
        return self._consumer

    def _renew_admin(self) -> None:
        self._admin = AdminClient(self._config)
        self._ids = TopicIds(self._admin, self.topics, self._connection)

    def _renew(self) -> None:
        """Connect with new secrets: clients keep those that they were opened with."""
        if self._connection.is_outdated:
            _log.info("a password or certificate for Kafka has changed: connecting again")
            self.reopen()

    def _assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        """Begin each new partition at its committed offset, or repeat its intent first."""
        self._metrics.add("runwire_worker_rebalances_total")
        if self._is_leaving:  # nothing of it is read, and a request could hold up the leaving
            return
        try:
            places = consumer.committed(assigned, timeout=COMMITTED_REQUEST_S) if assigned else []
            for failed in (place.error for place in places if place.error is not None):
                raise KafkaException(failed)  # else it would count as no offset: begin at the start
            ids = self._ids.read() if assigned else self._ids.last
            for place in places:
                fresh = partition_at(place, ids[place.topic], self._kafka.topic_prefix)
                self.partitions[fresh.name] = fresh
            consumer.incremental_assign(places)
        except (KafkaException, Retryable) as error:
            _log.warning("cannot begin %d partitions (%s), joining again", len(assigned), error)
            self._must_reopen = True
            return
        self._metrics.set("runwire_worker_assigned_partitions", len(self.partitions))
        # Also to resume: a partition revoked while it was paused comes back paused.
        self._apply_pause(self.partitions.values(), consumer)

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
        """Fetch these and what is damaged again: some may be older than the loss of partitions."""
        names = {f"{message.topic()}/{message.partition()}" for message in messages}
        self._unsettled |= self._damaged.keys() & self.partitions.keys()
        names |= self._damaged.keys()
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
        if error is None and not self._unsettled and not self._damaged:
            return True
        name = f"{message.topic()}/{message.partition()}"
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            self._unsettled.discard(name)
            # What is behind a damaged batch is fetched again: taken now, it would hide the damage.
            return error is not None or name not in self._damaged
        if name in self._damaged:
            return False
        if name in self._unsettled and name in self.partitions:
            self._unsettled.discard(name)
            self._seek(self.partitions[name])
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._begin_at_start(self.partition_of(message))
        elif treatment(error.code()) is Treatment.REFUSE and name in self.partitions:
            self._damaged[name] = message.offset() or 0
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
        self._connection.note(error)
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._fatal = self._fatal or error
        if error.code() not in PASSING:
            self._problem = error

    def _ended(self, cause: KafkaError) -> Retryable:
        """Return the Retryable for a client that does nothing any more: another one follows.

        Raises: Fatal where another one would end the same way.
        """
        self._fatal, self._must_reopen = None, True
        self._open_at_s = time.monotonic() + REOPEN_S
        self._forget(self.partitions)
        return self._connection.failed(cause_of(cause))

    def _failed(self, error: KafkaException) -> Retryable:
        """Return the Retryable of a failed call. Raises: Fatal where waiting cannot help."""
        (cause,) = error.args
        if cause.fatal() or cause.code() == KafkaError._FATAL:
            return self._ended(self._fatal or cause)
        if cause.code() in FENCED:
            # Rejoining is slower than the client's own recovery, but leaves no partition that the
            # client still fetches and we no longer count as ours.
            self._must_reopen = True
            self._forget(self.partitions)
            return Retryable(0.05, f"the group continued without this worker ({cause.name()})")
        if cause.code() in REBALANCING:
            return Retryable(0.05, "the group is rebalancing")
        return self._connection.failed(cause)
