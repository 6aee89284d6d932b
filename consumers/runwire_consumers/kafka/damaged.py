"""Damaged batches in a broker's log: where one ends, and how many points are lost with it.

A batch whose checksum does not fit is never yielded by the client, which fetches it again for ever.
Its end is found by reads at later offsets: the broker answers each offset with the batch around it,
so a read within the damaged one fails at the same first offset.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from runwire_consumers.core.errors import Retryable
from runwire_consumers.kafka.errors import Treatment, treatment
from runwire_consumers.kafka.headers import count_points
from runwire_consumers.kafka.partition import Partition

ANSWER_S: Final = 10.0


class DamagedBatch(NamedTuple):
    """Offsets [first, end) that nobody can read, and the points that their headers name."""

    first: int
    end: int
    points: int


def measure(
    config: Mapping[str, Any], partition: Partition, batch: int, failed: Callable[..., Retryable]
) -> DamagedBatch | None:
    """Return what the batch that begins at offset `batch` costs a partition from its position on.

    No more than its range to repeat, if it has one. None when the position is behind the batch, or
    the range is complete. Blocks: for a dozen requests. Raises: Retryable.
    """
    if partition.is_complete:
        return None
    first = max(batch, partition.next_offset)
    place = TopicPartition(partition.topic, partition.number, first)
    # One batch for each answer: behind a damaged one, librdkafka (2.16) goes on at a wrong place.
    config = {**config, "max.partition.fetch.bytes": 1}
    try:
        if not _is_within(config, place, place.offset, batch):
            return None
        end = _end(config, place, batch)
    except KafkaException as error:
        raise failed(error.args[0]) from error
    if partition.repeat is not None:
        end = min(end, partition.behind(partition.repeat))
    return DamagedBatch(place.offset, end, _points(config, place, end))


def _end(config: Mapping[str, Any], place: TopicPartition, batch: int) -> int:
    """Return the first offset behind the batch: in steps that double, then by halves."""
    within, step = place.offset, 1
    while _is_within(config, place, within + step, batch):
        within, step = within + step, 2 * step
    behind = within + step
    while behind - within > 1:
        middle = (within + behind) // 2
        if _is_within(config, place, middle, batch):
            within = middle
        else:
            behind = middle
    return behind


def _is_within(config: Mapping[str, Any], place: TopicPartition, offset: int, batch: int) -> bool:
    # A reader for each question: an error may come late, and be taken for the next answer.
    with _reader({**config, "check.crcs": True}) as reader:
        reader.assign([TopicPartition(place.topic, place.partition, offset)])
        answer = _next(reader)
    error = answer.error()
    if error is None or error.code() in _ENDS:
        return False
    if treatment(error.code()) is not Treatment.REFUSE:
        raise KafkaException(error)
    return answer.offset() == batch


def _points(config: Mapping[str, Any], place: TopicPartition, end: int) -> int:
    """Return the points in the headers of records that can be told apart without a checksum."""
    points = 0
    with (
        _reader({**config, "check.crcs": False}) as reader,
        contextlib.suppress(KafkaException),  # nothing more to be counted
    ):
        reader.assign([place])
        while True:
            message = _next(reader)
            if message.error() is not None or (message.offset() or 0) >= end:
                break
            points += count_points(message)
    return points


def _next(reader: Consumer) -> Message:
    found = reader.consume(1, ANSWER_S)
    if not found:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
    return found[0]


@contextlib.contextmanager
def _reader(config: Mapping[str, Any]) -> Iterator[Consumer]:
    reader = Consumer(dict(config))
    try:
        yield reader
    finally:
        reader.close()


_ENDS: Final = frozenset(
    (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
)
