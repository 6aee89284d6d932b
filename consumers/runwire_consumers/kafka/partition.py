"""Partitions as the source reads them: intents, topic ids and the bounds of the log.

The metadata of a committed offset is `<topic id>` or `<topic id> <first>-<last>[ <pieces>]`: the
second form is an intent, the exact range of the batch that is being written, and the pieces it is
written in. The id tells a topic from a deleted one of the same name, whose offsets mean nothing
here.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.pieces import WHOLE, Pieces
from runwire_consumers.core.source import Pending, Record, Span
from runwire_consumers.kafka.connection import Connection
from runwire_consumers.kafka.errors import NO_ANSWER
from runwire_schemas.topics import kind_of_topic

_log = logging.getLogger("runwire.kafka")

TOPIC_IDS_REQUEST_S = 5.0
BOUNDS_REQUEST_S = 10.0


@dataclass(slots=True)
class Partition:
    """One assigned partition: the next offset to yield and, after a crash, the range to repeat.

    `log_end` is set when the log ends within the range to repeat: what it had from there is lost.
    """

    topic: str
    number: int
    topic_id: str
    kind: str
    next_offset: int
    repeat: Span | None = None
    pieces: Pieces = WHOLE
    repeated: list[Record] = field(default_factory=list)
    is_complete: bool = False
    is_handed_out: bool = False
    log_end: int | None = None
    held: list[Record] = field(default_factory=list)
    name: str = field(init=False)  # as records and log lines name it

    def __post_init__(self) -> None:
        self.name = f"{self.topic}/{self.number}"

    def token(self, span: Span) -> str:
        """Return the insert token of a range; the topic's id sets a recreated topic apart."""
        return f"{self.topic_id}:{self.number}:{span.first}-{span.last}"

    def passes(self, record: Record) -> bool:
        """Take a fetched record that may be yielded at once; False: call `take`.

        It is the rule, and costs a tenth of it: the next record, with no range to repeat.
        """
        if record.offset != self.next_offset or self.repeat is not None:
            return False
        self.next_offset = record.last_offset + 1
        return True

    def take(self, record: Record) -> list[Record]:
        """Take a fetched record; return the records that may be yielded now.

        Records of a range to repeat are gathered, later ones held until it is committed.
        """
        if record.offset < self.next_offset:
            return []  # fetched before a seek
        if self.next_offset == OFFSET_BEGINNING and record.offset > 0 and self.kind != "deadletter":
            report_expired(self, record.offset)
        self.next_offset = record.last_offset + 1
        if self.repeat is None:
            return [record]
        if record.offset >= self.behind(self.repeat):
            self.is_complete = True
            self.held.append(record)
            return []
        self.repeated.append(record)
        self.is_complete = record.last_offset == self.repeat.last
        return []

    def pass_over(self, offset: int) -> None:
        """Note a message that makes no record: it is read, and no lag."""
        self.next_offset = max(self.next_offset, offset + 1)

    def behind(self, span: Span) -> int:
        """Return the offset to resume from after a range."""
        return span.last + 1 if self.log_end is None else min(span.last + 1, self.log_end)

    def misses_records(self, log_end: int) -> bool:
        """Whether a log with this end is too short for the range to repeat."""
        return self.repeat is not None and not self.is_complete and log_end <= self.repeat.last

    def cut(self, log_end: int) -> None:
        """Treat the range to repeat as complete although the log ends within it."""
        self.log_end = log_end
        self.is_complete = True

    def pending(self) -> Pending | None:
        """Return the range to repeat once it is gathered, the first time."""
        if self.repeat is None or not self.is_complete or self.is_handed_out:
            return None
        self.is_handed_out = True
        stamp = max((record.append_at_ns for record in self.repeated), default=0)
        spans = {self.name: self.repeat}
        return Pending(self.token(self.repeat), spans, stamp, self.repeated, self.pieces)

    def committed(self) -> list[Record]:
        """Forget the repeated range; return the records held until its commit."""
        held, self.held = self.held, []
        self.repeat, self.repeated, self.log_end, self.pieces = None, [], None, WHOLE
        self.is_complete = self.is_handed_out = False
        return held


def intent_text(topic_id: str, span: Span | None = None, pieces: Pieces = WHOLE) -> str:
    """Return the metadata of a committed offset."""
    return topic_id if span is None else f"{topic_id} {span.first}-{span.last} {pieces}".rstrip()


def parse_intent(metadata: str | None) -> tuple[str, Span | None]:
    """Return (topic id, range to repeat); foreign metadata yields no range."""
    topic_id, _, text = (metadata or "").partition(" ")
    first, _, last = text.partition(" ")[0].partition("-")
    if first.isdecimal() and last.isdecimal() and int(first) <= int(last):
        return topic_id, Span(int(first), int(last))
    return topic_id, None


def parse_pieces(metadata: str | None) -> Pieces:
    """Return the pieces of an intent; foreign metadata yields a whole batch."""
    words = (metadata or "").split(" ")
    try:
        return Pieces.parse(words[2]) if len(words) == 3 else WHOLE
    except ValueError:
        return WHOLE


class TopicIds:
    """Asks the cluster for topic ids and remembers the last answer."""

    def __init__(self, admin: AdminClient, topics: Sequence[str], connection: Connection) -> None:
        self._admin, self._topics, self._connection = admin, list(topics), connection
        self.last: dict[str, str] = {}
        self.partitions: dict[str, int] = {}

    def read(self) -> Mapping[str, str]:
        """Return the id of each topic.

        Blocks: for one request, at most 10 s together with the refresh of the metadata.
        Raises: Retryable when a topic is missing or no broker answers.
        """
        futures = self._admin.describe_topics(
            TopicCollection(self._topics), request_timeout=TOPIC_IDS_REQUEST_S
        )
        ids: dict[str, str] = {}
        partitions: dict[str, int] = {}
        missing: list[str] = []
        for name, future in futures.items():
            try:
                topic = future.result()
                ids[name], partitions[name] = str(topic.topic_id), len(topic.partitions)
            except KafkaException as error:
                (cause,) = error.args
                if cause.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    if cause.code() in NO_ANSWER:
                        # The request went to the controller that the client last knew, and a
                        # client without topics of its own refreshes that every five minutes only.
                        self._refresh_metadata()
                        self._admin.poll(0.0)  # delivers the reason for the missing answer
                    raise self._connection.failed(cause) from error
                missing.append(name)
        if missing:
            names = ", ".join(sorted(missing))
            raise Retryable(
                2.0,
                f"no topic {names} at {self._connection.servers}: run `runwire migrate` to make it",
            )
        self.last, self.partitions = ids, partitions
        return ids

    def _refresh_metadata(self) -> None:
        with contextlib.suppress(KafkaException):
            self._admin.list_topics(timeout=TOPIC_IDS_REQUEST_S)


def log_bounds(consumer: Consumer, partition: Partition) -> tuple[int, int] | None:
    """Return the first offset of the log and the one after its last; None without an answer.

    A new leader answers only once it knows the end again (KIP-207).
    Blocks: for one request.
    """
    place = TopicPartition(partition.topic, partition.number)
    try:
        bounds: tuple[int, int] = consumer.get_watermark_offsets(place, timeout=BOUNDS_REQUEST_S)
    except KafkaException as error:
        _log.warning("cannot look up the bounds of %s (%s)", partition.name, error)
        return None
    return bounds


def report_cut(partition: Partition, end: int) -> None:
    """Log that an announced batch is incomplete: the log has lost its end."""
    _log.error(
        "%s ends at %d, within a batch that was being written: the cluster has lost acknowledged "
        "records (unclean election?); what is left is written",
        partition.name,
        end,
    )


def report_expired(partition: Partition, first: int) -> None:
    """Log that the log begins behind its first record, and nothing of it was read before."""
    _log.error(
        "%s begins at offset %d: the %d records before it expired before this group read any, and "
        "their points stay pending in the books of their writers. Raise the retention of the "
        "topic, or start the workers before the agents",
        partition.name,
        first,
        first,
    )


def report_outside(partition: Partition, low: int, high: int) -> None:
    """Log that the next record is outside the log."""
    _log.error(
        "%s: offset %d is outside the log (%d to %d): records expired before they were read, "
        "or the log was cut. Reading from its start; repeated points collapse. Raise the retention "
        "of the topic",
        partition.name,
        partition.next_offset,
        low,
        high,
    )


def partition_at(place: TopicPartition, topic_id_now: str, prefix: str) -> Partition:
    """Return a partition at its committed place, at its start if the topic was recreated."""
    topic_id, repeat = parse_intent(place.metadata)
    if place.offset < 0 or (topic_id and topic_id != topic_id_now):
        if place.offset >= 0:
            _log.warning("%s was recreated, its old offset is ignored", place.topic)
        place.offset, repeat = OFFSET_BEGINNING, None
    kind, pieces = kind_of_topic(place.topic, prefix), parse_pieces(place.metadata)
    return Partition(place.topic, place.partition, topic_id_now, kind, place.offset, repeat, pieces)
