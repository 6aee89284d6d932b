"""Dead letters in a topic: every worker of a cluster sees all of them, by id.

A letter is a record with its id as a header; a record without a value removes a letter, in the
partition of the letter. Workers write to partition 0 only, so that puts and removals of one letter
keep their order; agents write to the partition of their key. The topic is read from its start at
the first need and followed from there: with the limit in force it has a few thousand records.
"""

from collections.abc import Iterator

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from runwire_consumers.core.dead_letters import limit_reached
from runwire_consumers.kafka.errors import retryable
from runwire_consumers.kafka.headers import read_headers
from runwire_consumers.kafka.producer import DurableProducer, OutgoingRecord
from runwire_schemas import codec
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import DeadLetter
from runwire_schemas.topics import topic_name

ID_HEADER = "letter"
LETTER_REQUEST_S = 10.0
CONSUME_S = 0.1  # longest wait for a full list of messages


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
        self._positions: dict[int, int] = {}
        self._consumer: Consumer | None = None
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
        new = {letter.id: letter for letter in waiting if letter.id not in self._ids}
        room = max(0, self._limit - len(self._ids))
        chosen = list(new.values())[:room]
        self._producer.send(_outgoing(letter, codec.encode(letter), 0) for letter in chosen)
        self._ids.update(letter.id for letter in chosen)
        if len(new) > room:
            raise limit_reached(self._limit, f"topic {self._topic}")
        return len(new)

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
            value = message.value()
            if value is None:
                entries.pop(letter_id, None)
                continue
            try:
                event = codec.decode(value)
            except DecodeError:
                continue  # a foreign message; it stays in the topic
            if isinstance(event, DeadLetter):
                entry = (message.timestamp()[1], event, message.partition() or 0)
                entries.setdefault(letter_id, entry)
        self._ids = set(entries)
        oldest_first = sorted(entries.values(), key=lambda entry: entry[0])
        return [(letter, number) for _, letter, number in oldest_first]

    def remove(self, ids: set[str]) -> int:
        """Delete these letters, after a replay; return how many there were."""
        letters = [(letter, number) for letter, number in self._read() if letter.id in ids]
        self._producer.send(_outgoing(letter, None, number) for letter, number in letters)
        self._ids -= ids
        return len(letters)

    def close(self) -> None:
        """Release the connections."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()
        self._producer.close()

    def _follow(self) -> None:
        for letter_id, message in self._news():
            if message.value() is None:
                self._ids.discard(letter_id)
            else:
                self._ids.add(letter_id)

    def _news(self) -> Iterator[tuple[str, Message]]:
        """Yield the messages from the positions to the ends of the topic's partitions."""
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
            while behind:
                for message in consumer.consume(500, CONSUME_S):
                    number, offset = message.partition() or 0, message.offset() or 0
                    problem = message.error()
                    if problem is None:
                        offset += 1
                        yield _letter_id(message), message
                    elif problem.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(problem)
                    self._positions[number] = offset
                    if offset >= ends.get(number, 0):
                        behind.discard(number)
        except KafkaException as error:
            raise retryable(error.args[0], self._kafka.bootstrap_servers) from error

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
        if self._consumer is None:
            self._consumer = Consumer(
                {
                    **self._kafka.client_config(),
                    "log_level": 3,
                    "group.id": f"{self._topic}.readers",  # the client needs one, none is joined
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "auto.offset.reset": "earliest",
                }
            )
        return self._consumer


def _outgoing(letter: DeadLetter, value: bytes | None, partition: int) -> OutgoingRecord:
    return OutgoingRecord(letter.key, value, partition, {ID_HEADER: letter.id.encode()})


def _letter_id(message: Message) -> str:
    """Return the id: the header of a worker's letter, the id field of an agent's."""
    header = read_headers(message).get(ID_HEADER)
    if header is not None:
        return header.decode(errors="replace") if isinstance(header, bytes) else header
    try:
        event = codec.decode(message.value() or b"")
    except DecodeError:
        return f"{message.partition()}:{message.offset()}"
    return event.id if isinstance(event, DeadLetter) else ""
