"""Dead letters in a topic: every worker of a cluster sees all of them, by id.

A letter is a record with its id as a header; a record without a value takes a letter back, in the
partition where the letter is. Workers write to partition 0 alone, so that what they say of one
letter keeps its order; agents write where their key leads. The topic is read from its start when
it is first needed and followed from there: with the limit in force that is a few thousand records.
"""

from collections.abc import Iterator
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from runwire_consumers.core.dead_letters import limit_reached
from runwire_consumers.core.errors import Retryable
from runwire_consumers.kafka.errors import retryable
from runwire_schemas import codec
from runwire_schemas.bounds import LETTER_BYTES_MAX
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import DeadLetter
from runwire_schemas.topics import topic_name

ID_HEADER = "letter"
REQUEST_S = 10.0
WAIT_S = 0.1  # the client waits so long for a full list of messages


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
        self._clients: tuple[Consumer, Producer] | None = None

    def put(self, letter: DeadLetter) -> None:
        """Take a letter."""
        self._waiting.append(letter)

    def flush(self) -> int:
        """Produce what is new and wait until it is acknowledged by all replicas in sync.

        Raises: DeadLetterLimit, Retryable; the letters are taken again then by the next try.
        """
        if not self._waiting:
            return 0
        self._follow()
        waiting, self._waiting = self._waiting, []
        new = {letter.id: letter for letter in waiting if letter.id not in self._ids}
        room = max(0, self._limit - len(self._ids))
        chosen = list(new.values())[:room]
        self._produce((letter.id, letter.key, codec.encode(letter), 0) for letter in chosen)
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
        """The letters and the partition of each."""
        self._positions.clear()
        self._ids.clear()
        found: dict[str, tuple[int, DeadLetter, int]] = {}
        for letter_id, message in self._news():
            value = message.value()
            if value is None:
                found.pop(letter_id, None)
                continue
            try:
                event = codec.decode(value)
            except DecodeError:
                continue  # not ours; it stays in the topic
            if isinstance(event, DeadLetter):
                entry = (message.timestamp()[1], event, message.partition() or 0)
                found.setdefault(letter_id, entry)
        self._ids = set(found)
        oldest_first = sorted(found.values(), key=lambda entry: entry[0])
        return [(letter, number) for _, letter, number in oldest_first]

    def remove(self, ids: set[str]) -> int:
        """Take these letters back, after a replay; return how many there were."""
        letters = [(letter, number) for letter, number in self._read() if letter.id in ids]
        self._produce((letter.id, letter.key, None, number) for letter, number in letters)
        self._ids -= ids
        return len(letters)

    def close(self) -> None:
        """Release the connections."""
        clients, self._clients = self._clients, None
        if clients is not None:
            clients[0].close()

    def _follow(self) -> None:
        for letter_id, message in self._news():
            if message.value() is None:
                self._ids.discard(letter_id)
            else:
                self._ids.add(letter_id)

    def _news(self) -> Iterator[tuple[str, Message]]:
        """Yield what lies between the positions and the ends of the topic's partitions."""
        consumer, _ = self._open()
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
                for message in consumer.consume(500, WAIT_S):
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
        known = consumer.list_topics(self._topic, timeout=REQUEST_S).topics[self._topic]
        if known.error is not None:
            raise KafkaException(known.error)
        ends = {}
        for number in known.partitions:
            place = TopicPartition(self._topic, number)
            low, end = consumer.get_watermark_offsets(place, timeout=REQUEST_S)
            self._positions[number] = max(low, self._positions.get(number, 0))
            ends[number] = end
        return ends

    def _produce(self, records: Iterator[tuple[str, bytes, bytes | None, int]]) -> None:
        _, producer = self._open()
        failed: list[KafkaError] = []

        def note(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failed.append(error)

        for letter_id, key, value, number in records:
            headers: list[tuple[str, str | bytes | None]] = [(ID_HEADER, letter_id.encode())]
            try:
                producer.produce(self._topic, value, key, number, headers=headers, on_delivery=note)
            except (KafkaException, BufferError) as error:
                cause = error.args[0]
                problem = cause if isinstance(cause, KafkaError) else KafkaError(-184)
                raise retryable(problem, self._kafka.bootstrap_servers) from error
            producer.poll(0)
        left = producer.flush(3 * REQUEST_S)
        if failed:
            raise retryable(failed[0], self._kafka.bootstrap_servers)
        if left:
            raise Retryable(
                1.0,
                f"{left} dead letters are not acknowledged by {self._kafka.bootstrap_servers}",
            )

    def _open(self) -> tuple[Consumer, Producer]:
        if self._clients is None:
            connection: dict[str, Any] = {**self._kafka.client_config(), "log_level": 3}
            reading = {
                "group.id": f"{self._topic}.readers",  # asked for by the client, never joined
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
            writing = {
                "enable.idempotence": True,
                "acks": "all",
                "message.max.bytes": LETTER_BYTES_MAX + (1 << 16),
                "delivery.timeout.ms": int(2000 * REQUEST_S),
            }
            self._clients = (Consumer(connection | reading), Producer(connection | writing))
        return self._clients


def _letter_id(message: Message) -> str:
    """The header of a worker's letter; of an agent's, what it says itself."""
    named = dict(message.headers() or []).get(ID_HEADER)
    if named is not None:
        return named.decode(errors="replace") if isinstance(named, bytes) else named
    try:
        event = codec.decode(message.value() or b"")
    except DecodeError:
        return f"{message.partition()}:{message.offset()}"
    return event.id if isinstance(event, DeadLetter) else ""
