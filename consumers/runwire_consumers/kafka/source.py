"""Kafka as a source: every partition is a lane, its intent is stored with the committed offset.

The protocol per partition: commit `first` with the metadata `<topic id> <first>-<last>`, write,
commit `last + 1`. A worker that is assigned a partition with such metadata first writes exactly
that range again, under the same token. A worker that lost a partition cannot commit: the group's
generation fences it.
"""

from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message, TopicPartition

from runwire_consumers.core.clock import Clock, Deadline, SystemClock
from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.health import SelfMetrics
from runwire_consumers.core.pieces import Pieces
from runwire_consumers.core.source import Pending, Record, Span
from runwire_consumers.kafka.damaged import DamagedBatch
from runwire_consumers.kafka.group import Group
from runwire_consumers.kafka.group_settings import GroupSettings
from runwire_consumers.kafka.headers import count_points
from runwire_consumers.kafka.partition import Partition, intent_text
from runwire_schemas.connections.kafka import KafkaSettings

# 2262-04-11: beyond it a producer of a topic with CreateTime has sent nanoseconds for milliseconds.
_MS_MAX = (2**63 - 1) // 1_000_000
TOPICS_CHECK_S = 5.0  # pace of the checks of topics and group, and of the lag


class KafkaSource:
    """Reads the topics of some kinds as a member of a consumer group.

    Threads: one.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: GroupSettings,
        *,
        clock: Clock | None = None,
        metrics: SelfMetrics | None = None,
        on_gained: Callable[[], None] | None = None,
    ) -> None:
        """`on_gained` is called after partitions were assigned, perhaps from a dead worker."""
        self._clock = clock or SystemClock()
        self._metrics = metrics or SelfMetrics()
        self._group = Group(kafka, settings, self._metrics)
        self._on_gained, self._had = on_gained, frozenset[str]()
        self._messages_max = settings.messages_max
        # Keyed by assignment: after a rebalance the same partition gets a new entry.
        self._ready: list[tuple[Partition, Record]] = []
        self._check_at_s = self._clock.monotonic_s() + TOPICS_CHECK_S
        self._why_idle = ""

    def poll(self, timeout_s: float) -> list[Record]:
        """Return new records, in order per partition; none while paused.

        Blocks: at most `timeout_s`, longer while partitions are assigned.
        Raises: Retryable.
        """
        self._check_topics()
        messages = self._group.consume(self._messages_max, 0.0 if self._ready else timeout_s)
        self._notify_gained()
        for message in messages:
            partition = self._group.partition_of(message)
            if partition is None:
                continue  # not ours any more (confluent-kafka-python issue 1013)
            if message.error() is not None:
                self._group.note_end(partition, message.offset() or 0)
                continue
            if message.value() is None and partition.kind == "deadletter":
                partition.pass_over(message.offset() or 0)  # a removed letter
                continue
            self._take(partition, _record(partition, message, self._clock))
        for partition, damage in self._group.take_damaged():
            self._take(partition, _damaged_record(partition, damage, self._clock))
            self._group.skip(partition)
        if self._group.is_paused:
            return []
        if self._why_idle and not self.assigned:
            raise Retryable(TOPICS_CHECK_S, self._why_idle)
        ready, self._ready = self._ready, []
        ours = self._group.partitions
        return [r for p, r in ready if ours.get(p.name) is p]

    @property
    def assigned(self) -> frozenset[str]:
        """Names of the partitions that the group has assigned to this source."""
        return frozenset(self._group.partitions)

    def pending(self) -> list[Pending]:
        """Return the ranges of earlier owners whose records are complete, each once."""
        ranges = [partition.pending() for partition in self._group.partitions.values()]
        return [pending for pending in ranges if pending is not None]

    def lane(self, partition: str) -> str:
        """Return the partition itself: it may move to another worker alone."""
        return partition

    def revoked(self) -> frozenset[str]:
        """Return the partitions that moved to another worker since the last call."""
        return self._group.take_lost()

    def intend(self, batches: Sequence[Mapping[str, Span]]) -> list[str]:
        """Commit each range as the intent of its partition, all in one request.

        Raises: Retryable; call `revoked` before the next try.
        """
        # Checked after the polls: if the ids are unchanged, all polled records are of them.
        self._group.check_topics()
        owned = [self._owned(partition, span) for b in batches for partition, span in b.items()]
        self._group.commit(
            [
                TopicPartition(p.topic, p.number, span.first, intent_text(p.topic_id, span))
                for p, span in owned
            ]
        )
        return [partition.token(span) for partition, span in owned]

    def cut(self, spans: Mapping[str, Span], pieces: Pieces) -> None:
        """Commit the intents of these partitions again, with the pieces of their batch.

        Raises: Retryable; call `revoked` before the next try.
        """
        owned = [self._owned(partition, span) for partition, span in spans.items()]
        self._group.commit(
            [
                TopicPartition(p.topic, p.number, span.first, intent_text(p.topic_id, span, pieces))
                for p, span in owned
            ]
        )

    def commit(self, spans: Mapping[str, Span]) -> None:
        """Move the offsets behind the spans.

        Raises: Retryable; call `revoked` before the next try.
        """
        owned = [self._owned(partition, span) for partition, span in spans.items()]
        self._group.commit(
            [
                TopicPartition(p.topic, p.number, p.behind(span), intent_text(p.topic_id))
                for p, span in owned
            ]
        )
        for partition, _ in owned:
            if partition.repeat is not None:
                self._hold_ready(partition, partition.committed())
                self._group.release(partition)

    def pause(self) -> None:
        """Fetch nothing until `resume`, as a member of the group."""
        self._group.set_paused(is_paused=True)

    def resume(self) -> None:
        """Undo `pause`."""
        self._group.set_paused(is_paused=False)

    def close(self, deadline: Deadline) -> None:
        """Leave the group; uncommitted records go to the other members."""
        self._group.close()

    def _owned(self, name: str, span: Span) -> tuple[Partition, Span]:
        partition = self._group.partitions.get(name)
        if partition is None:
            raise Retryable(0.05, f"{name} has another owner now")
        return partition, span

    def _take(self, partition: Partition, record: Record) -> None:
        if partition.passes(record):
            self._ready.append((partition, record))
            return
        was_complete = partition.is_complete
        self._hold_ready(partition, partition.take(record))
        if partition.is_complete and not was_complete:
            self._group.hold(partition)

    def _hold_ready(self, partition: Partition, records: list[Record]) -> None:
        self._ready += [(partition, record) for record in records]

    def _notify_gained(self) -> None:
        had, self._had = self._had, self.assigned
        if self._on_gained is not None and self._had - had:
            self._on_gained()

    def _check_topics(self) -> None:
        if self._clock.monotonic_s() < self._check_at_s:
            return
        self._check_at_s = self._clock.monotonic_s() + TOPICS_CHECK_S
        self._group.check_topics()
        self._why_idle = self._group.check_members()
        for topic, behind in self._group.lag().items():
            self._metrics.set("runwire_worker_lag_records", behind, topic=topic)


def _record(partition: Partition, message: Message, clock: Clock) -> Record:
    kind, at_ms = message.timestamp()
    offset = message.offset()
    assert offset is not None  # None only for messages that are errors
    is_known = kind != TIMESTAMP_NOT_AVAILABLE and 0 <= at_ms <= _MS_MAX
    return Record(
        partition.kind,
        partition.name,
        offset,
        offset,
        at_ms * 1_000_000 if is_known else clock.unix_ns(),
        message.value() or b"",
        key=message.key() or b"",
        points=count_points(message),
        topic_id=partition.topic_id,
    )


def _damaged_record(partition: Partition, damage: DamagedBatch, clock: Clock) -> Record:
    """Return one record in place of a damaged batch; its bytes are dropped, as they are wrong."""
    return Record(
        stream=partition.kind,
        partition=partition.name,
        offset=damage.first,
        last_offset=damage.end - 1,
        append_at_ns=clock.unix_ns(),
        value=b"",
        points=damage.points,
        damage=f"the batch at offset {damage.first} fails its checksum: a broker's disk or memory "
        f"has changed it. A replica on another broker may hold it whole",
    )
