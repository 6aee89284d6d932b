"""Dead letters in a topic: every worker of a cluster sees all of them, by id.

A letter is a record with its id as a header; a record without a value removes a letter, in the
partition of the letter, and with a further header for good. Workers write to partition 0 only, so
that puts and removals of one letter keep their order; agents write to the partition of their key.
The topic is read from its start at the first need and followed from there: with the limit in force
it has a few thousand records.

No record is too large to be set aside: of one that the topic does not take whole, a cut letter
keeps the beginning, and the rest can be read from its own topic until it expires there.
"""

import hashlib
import logging
import time
from collections.abc import Iterator

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from runwire_consumers.core.dead_letters import cut_letter, limit_reached
from runwire_consumers.core.errors import Retryable
from runwire_consumers.kafka.connection import Connection
from runwire_consumers.kafka.headers import read_headers
from runwire_consumers.kafka.partition import TopicIds
from runwire_consumers.kafka.producer import DurableProducer, MessageTooLarge, OutgoingRecord
from runwire_schemas import codec
from runwire_schemas.bounds import LETTER_BYTES_MAX
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import DeadLetter
from runwire_schemas.topics import topic_name

ID_HEADER = "letter"
FINAL_HEADER = "removed"
LETTER_REQUEST_S = 10.0
CONSUME_S = 0.1  # longest wait for a full list of messages
RECORD_S = 30.0  # longest wait for one record of the largest size
# Beginnings of a value to keep, the largest that its topic takes: the first fits into Kafka's
# default limit of 1 MiB, the last into any limit that takes records of ours at all.
HEADS_BYTES = (256 * 1024, 4 * 1024, 0)
# Readers refuse larger letters; the texts beside key and value fit into the difference.
_WHOLE_BYTES_MAX = LETTER_BYTES_MAX - 64 * 1024

_log = logging.getLogger("runwire.kafka")


class KafkaDeadLetters:
    """Letters in the topic of kind `deadletter`.

    Threads: one. Two workers may keep the same letter at the same moment; its id counts once.
    """

    def __init__(self, kafka: KafkaSettings, *, limit: int = 1000) -> None:
        self._kafka = kafka
        self._topic = topic_name("deadletter", kafka.topic_prefix)
        self._limit = limit
        self._waiting: list[DeadLetter] = []
        self._ids: set[str] = set()
        self._removed: set[str] = set()
        self._positions: dict[int, int] = {}
        self._consumer: Consumer | None = None
        self._connection = Connection(kafka)
        self._producer = DurableProducer(kafka, self._topic)

    def put(self, letter: DeadLetter) -> None:
        """Take a letter."""
        self._waiting.append(letter)

    def flush(self) -> int:
        """Produce what is new and wait until it is acknowledged by all replicas in sync.

        Raises: DeadLetterLimit, Retryable; put the letters again before the next try.
        """
        if not self._waiting:
            return 0
        self._follow()
        waiting, self._waiting = self._waiting, []
        known = self._ids | self._removed
        new = {letter.id: letter for letter in waiting if letter.id not in known}
        room = max(0, self._limit - len(self._ids))
        chosen = list(new.values())[:room]
        self._keep(chosen)
        self._ids.update(letter.id for letter in chosen)
        if len(new) > room:
            raise limit_reached(self._limit, f"topic {self._topic}")
        return len(new)

    def _keep(self, letters: list[DeadLetter]) -> None:
        try:
            self._send(letters)
        except MessageTooLarge:
            # One of them, or a batch of several: each is sent alone to find out.
            for letter in letters:
                self._keep_alone(letter)

    def _keep_alone(self, letter: DeadLetter) -> None:
        """Send the letter whole, else as much of it as the topic takes."""
        for head_bytes in (None, *HEADS_BYTES):
            try:
                self._send([letter if head_bytes is None else cut_letter(letter, head_bytes)])
            except MessageTooLarge:
                continue
            if head_bytes is not None:
                _log.warning(
                    "the record at %s %d has %d bytes, more than topic %s takes: the first %d are "
                    "kept; `runwire dead-letters replay` reads the rest from its own topic",
                    letter.partition,
                    letter.offset,
                    len(letter.value),
                    self._topic,
                    head_bytes,
                )
            return
        raise Retryable(
            5.0,
            f"topic {self._topic} takes no dead letter at all: raise its max.message.bytes with "
            "`runwire migrate --fix`",
        )

    def _send(self, letters: list[DeadLetter]) -> None:
        for letter in letters:
            if len(letter.value) + len(letter.key) > _WHOLE_BYTES_MAX:
                raise MessageTooLarge(1.0, f"a letter of {len(letter.value)} bytes")
        self._producer.send(
            OutgoingRecord(letter.key, codec.encode(letter), 0, {ID_HEADER: letter.id.encode()})
            for letter in letters
        )

    def count(self) -> int:
        """Return how many letters are kept. Raises: Retryable."""
        self._follow()
        return len(self._ids)

    def read(self) -> list[DeadLetter]:
        """Return the letters kept, oldest first. Raises: Retryable."""
        return [letter for letter, _ in self._read()]

    def _read(self) -> list[tuple[DeadLetter, int]]:
        """Return the letters and the partition of each."""
        self._positions.clear()
        self._ids.clear()
        entries: dict[str, tuple[int, DeadLetter, int]] = {}
        for letter_id, message in self._news():
            self._note(letter_id, message)
            value = message.value()
            if value is None:
                entries.pop(letter_id, None)
                continue
            try:
                event = codec.decode(value, kind="deadletter")
            except DecodeError:
                continue  # a foreign message; it stays in the topic
            if isinstance(event, DeadLetter):
                entry = (message.timestamp()[1], event, message.partition() or 0)
                entries.setdefault(letter_id, entry)
        self._ids = set(entries)
        oldest_first = sorted(entries.values(), key=lambda entry: entry[0])
        return [(letter, number) for _, letter, number in oldest_first]

    def remove(self, ids: set[str], *, is_final: bool = False) -> int:
        """Delete these letters; return how many there were. Raises: Retryable."""
        letters = [(letter, number) for letter, number in self._read() if letter.id in ids]
        final = {FINAL_HEADER: b"1"} if is_final else {}
        self._producer.send(
            OutgoingRecord(letter.key, None, number, {ID_HEADER: letter.id.encode(), **final})
            for letter, number in letters
        )
        return len(letters)

    def read_original(self, letter: DeadLetter) -> bytes | None:
        """Read a cut letter's record from its own topic; None when it is gone or another one.

        Blocks: up to `RECORD_S`. Raises: Retryable.
        """
        topic, _, number = letter.partition.rpartition("/")
        consumer = self._open()
        try:
            place = TopicPartition(topic, int(number), letter.offset)
            # Without the topic this is Retryable: nobody knows whether it comes back.
            admin = AdminClient(self._connection.config_or_wait())
            ids = TopicIds(admin, [topic], self._connection)
            if ids.read()[topic] != letter.topic_id:
                return None
            low, end = consumer.get_watermark_offsets(place, timeout=LETTER_REQUEST_S)
            if not low <= letter.offset < end:
                return None
            consumer.assign([place])
            messages = consumer.consume(1, RECORD_S)
            if not messages:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        except KafkaException as error:
            raise self._connection.failed(error.args[0]) from error
        for message in messages:
            value = message.value()
            if message.error() is None and message.offset() == letter.offset and value is not None:
                is_same = hashlib.sha256(value).hexdigest() == letter.value_sha256
                return value if is_same else None
        return None

    def close(self) -> None:
        """Release the connections."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()
        self._producer.close()

    def _follow(self) -> None:
        for letter_id, message in self._news():
            self._note(letter_id, message)

    def _note(self, letter_id: str, message: Message) -> None:
        if message.value() is not None:
            self._ids.add(letter_id)
            return
        self._ids.discard(letter_id)
        if FINAL_HEADER in read_headers(message):
            self._removed.add(letter_id)

    def _news(self) -> Iterator[tuple[str, Message]]:
        """Yield the letters' messages from the positions to the ends of the topic's partitions.

        Foreign messages are passed over: nobody could remove them, so none may count.
        Raises: Retryable, also when the brokers fall silent on the way.
        """
        consumer = self._open()
        try:
            ends = self._ends(consumer)
            behind = {n for n, end in ends.items() if self._positions.get(n, 0) < end}
            consumer.assign(
                [
                    TopicPartition(self._topic, n, self._positions.get(n, OFFSET_BEGINNING))
                    for n in behind
                ]
            )
            heard_s = time.monotonic()
            while behind:
                messages = consumer.consume(500, CONSUME_S)
                if messages:
                    heard_s = time.monotonic()
                elif time.monotonic() - heard_s > RECORD_S:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                for message in messages:
                    number, offset = message.partition() or 0, message.offset() or 0
                    problem = message.error()
                    if problem is None:
                        offset += 1
                        letter_id = _letter_id(message)
                        if letter_id is not None:
                            yield letter_id, message
                    elif problem.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(problem)
                    self._positions[number] = offset
                    if offset >= ends.get(number, 0):
                        behind.discard(number)
        except KafkaException as error:
            raise self._connection.failed(error.args[0]) from error
        self._connection.worked()

    def _ends(self, consumer: Consumer) -> dict[int, int]:
        metadata = consumer.list_topics(self._topic, timeout=LETTER_REQUEST_S).topics[self._topic]
        if metadata.error is not None:
            raise KafkaException(metadata.error)
        ends = {}
        for number in metadata.partitions:
            place = TopicPartition(self._topic, number)
            low, end = consumer.get_watermark_offsets(place, timeout=LETTER_REQUEST_S)
            self._positions[number] = max(low, self._positions.get(number, 0))
            ends[number] = end
        return ends

    def _open(self) -> Consumer:
        if self._consumer is not None and self._connection.is_outdated:
            self._consumer.close()
            self._consumer = None
        if self._consumer is None:
            self._consumer = Consumer(
                {
                    **self._connection.config_or_wait(),
                    "group.id": f"{self._topic}.readers",  # the client needs one, none is joined
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "auto.offset.reset": "earliest",
                }
            )
        return self._consumer


def _letter_id(message: Message) -> str | None:
    """Return the id: the header of a worker's letter, the id field of an agent's; else None."""
    header = read_headers(message).get(ID_HEADER)
    if header is not None:
        return header.decode(errors="replace") if isinstance(header, bytes) else header
    try:
        event = codec.decode(message.value() or b"", kind="deadletter")
    except DecodeError:
        return None
    return event.id if isinstance(event, DeadLetter) else None
