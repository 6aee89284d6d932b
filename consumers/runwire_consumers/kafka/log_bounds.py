"""Where the log of a partition begins and ends, and what to say when that is a surprise."""

import logging

from confluent_kafka import Consumer, KafkaException, TopicPartition

from runwire_consumers.kafka.partition import Partition

_log = logging.getLogger("runwire.kafka")

REQUEST_S = 10.0


def ask_bounds(consumer: Consumer, partition: Partition) -> tuple[int, int] | None:
    """Return where the log begins and ends; None when nobody says.

    A leader that is new answers only once it knows the end again (KIP-207).
    Blocks: for one request.
    """
    place = TopicPartition(partition.topic, partition.number)
    try:
        found: tuple[int, int] = consumer.get_watermark_offsets(place, timeout=REQUEST_S)
    except KafkaException as error:
        _log.warning("cannot look up the bounds of %s (%s)", partition.name, error)
        return None
    return found


def tell_cut(partition: Partition, end: int) -> None:
    """Say that a batch that was announced is not whole any more."""
    _log.error(
        "%s ends at %d, within a batch that was being written: the cluster has lost acknowledged "
        "records (unclean election?); what is left is written",
        partition.name,
        end,
    )


def tell_outside(partition: Partition, low: int, high: int) -> None:
    """Say that the next record is not in the log."""
    _log.error(
        "%s: offset %d lies outside of the log (%d to %d): records expired before they were read, "
        "or the log was cut. Reading from its start; repeated points collapse. Raise the retention "
        "of the topic",
        partition.name,
        partition.next_offset,
        low,
        high,
    )
