"""Partitions as the source reads them: intents, topic ids and the bounds of the log.

The metadata of a committed offset is `<topic id>` or `<topic id> <first>-<last>`: the second form
is an intent, the exact range of the batch that is being written. The id tells a topic from a
deleted one of the same name, whose offsets mean nothing here.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.source import Pending, Record, Span
from runwire_consumers.kafka.errors import NO_ANSWER, retryable

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
    repeated: list[Record] = field(default_factory=list)
    is_complete: bool = False
    is_handed_out: bool = False
    log_end: int | None = None
    held: list[Record] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The partition as records and log lines name it."""
        return f"{self.topic}/{self.number}"

    def token(self, span: Span) -> str:
        """Return the insert token of a range; the topic's id sets a recreated topic apart."""
        return f"{self.topic_id}:{self.number}:{span.first}-{span.last}"

    def take(self, record: Record) -> list[Record]:
        """Take a fetched record; return the records that may be yielded now.

        Records of a range to repeat are gathered, later ones held until it is committed.
        """
        if record.offset < self.next_offset:
            return []  # fetched before a seek
        self.next_offset = record.offset + 1
        if self.repeat is None:
            return [record]
        if record.offset >= self.behind(self.repeat):
            self.is_complete = True
            self.held.append(record)
            return []
        self.repeated.append(record)
        self.is_complete = record.offset == self.repeat.last
        return []

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
        return Pending(self.token(self.repeat), spans, stamp, self.repeated)

    def committed(self) -> list[Record]:
        """Forget the repeated range; return the records held until its commit."""
        held, self.held = self.held, []
        self.repeat, self.repeated, self.log_end = None, [], None
        self.is_complete = self.is_handed_out = False
        return held


def intent_text(topic_id: str, span: Span | None = None) -> str:
    """Return the metadata of a committed offset."""
    return topic_id if span is None else f"{topic_id} {span.first}-{span.last}"


def parse_intent(metadata: str | None) -> tuple[str, Span | None]:
    """Return (topic id, range to repeat); foreign metadata yields no range."""
    topic_id, _, text = (metadata or "").partition(" ")
    first, _, last = text.partition("-")
    if first.isdecimal() and last.isdecimal() and int(first) <= int(last):
        return topic_id, Span(int(first), int(last))
    return topic_id, None


class TopicIds:
    """Asks the cluster for topic ids and remembers the last answer."""

    def __init__(self, admin: AdminClient, topics: Sequence[str], servers: str) -> None:
        self._admin, self._topics, self._servers = admin, list(topics), servers
        self.last: dict[str, str] = {}

    def read(self) -> Mapping[str, str]:
        """Return the id of each topic.

        Blocks: for one request, at most 10 s together with the refresh of the metadata.
        Raises: Retryable when a topic is missing or no broker answers.
        """
        futures = self._admin.describe_topics(
            TopicCollection(self._topics), request_timeout=TOPIC_IDS_REQUEST_S
        )
        ids: dict[str, str] = {}
        missing: list[str] = []
        for name, future in futures.items():
            try:
                ids[name] = str(future.result().topic_id)
            except KafkaException as error:
                (cause,) = error.args
                if cause.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    if cause.code() in NO_ANSWER:
                        # The request went to the controller that the client last knew, and a
                        # client without topics of its own refreshes that every five minutes only.
                        self._refresh_metadata()
                    raise retryable(cause, self._servers) from error
                missing.append(name)
        if missing:
            names = ", ".join(sorted(missing))
            raise Retryable(
                2.0, f"no topic {names} at {self._servers}: run `runwire migrate` to make it"
            )
        self.last = ids
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
