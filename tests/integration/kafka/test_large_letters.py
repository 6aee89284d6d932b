"""Dead letters larger than their topic: kept in part, the rest read from the record's own topic."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from runwire_consumers.core.dead_letters import letter_of
from runwire_consumers.core.source import Record
from runwire_consumers.kafka.dead_letters import KafkaDeadLetters
from runwire_consumers.kafka.partition import TopicIds
from runwire_consumers.stack.letters import replay
from runwire_schemas import codec
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.events import DeadLetter
from runwire_schemas.topics import topic_name
from support.builders import AT_NS, metric_batch
from support.servers import Cluster
from support.topics import make_topics

pytestmark = pytest.mark.fault

KAFKA_DEFAULT_BYTES = "1048588"


@pytest.fixture
def settings(kafka: Cluster, topic_prefix: str) -> KafkaSettings:
    """A metric topic as ours, and a dead-letter topic with Kafka's default limit."""
    settings = replace(kafka.settings, topic_prefix=topic_prefix)
    make_topics(settings, topic_prefix, ["metric"], partitions=1)
    config = {"max.message.bytes": KAFKA_DEFAULT_BYTES}
    new = NewTopic(topic_name("deadletter", topic_prefix), 1, config=config)
    admin = AdminClient(settings.client_config())  # a request ends with its client
    for future in admin.create_topics([new]).values():
        future.result()
    return settings


def produce(settings: KafkaSettings, value: bytes) -> Record:
    """Send a value to the metric topic as a foreign client; its record as the source yields it."""
    topic = topic_name("metric", settings.topic_prefix)
    producer = Producer(
        {**settings.client_config(), "compression.type": "zstd", "message.max.bytes": 64 << 20}
    )
    places: list[int] = []
    producer.produce(topic, value, on_delivery=lambda _, m: places.append(m.offset() or 0))
    assert producer.flush(30) == 0
    ids = TopicIds(AdminClient(settings.client_config()), [topic], settings.bootstrap_servers)
    return Record(
        stream="metric",
        partition=f"{topic}/0",
        offset=places[0],
        last_offset=places[0],
        append_at_ns=AT_NS,
        value=value,
        topic_id=ids.read()[topic],
    )


def keep(settings: KafkaSettings, *records: Record) -> list[DeadLetter]:
    """Set the records aside; the letters as another process reads them."""
    letters = KafkaDeadLetters(settings)
    for record in records:
        letters.put(letter_of(record, "cannot be decoded", at_ns=AT_NS))
    assert letters.flush() == len(records)
    letters.close()
    kept = KafkaDeadLetters(settings)
    try:
        return kept.read()
    finally:
        kept.close()


@pytest.mark.parametrize(
    "size", [40 * 1024 * 1024, 2 * 1024 * 1024], ids=["40 MiB of zeros", "2 MiB of noise"]
)
def test_record_larger_than_the_letters_topic_is_kept_in_part(
    settings: KafkaSettings, size: int, seed: int
) -> None:
    """The letter has head, size and hash of the value; the rest is read from its own topic."""
    noise = hashlib.shake_256(str(seed).encode()).digest(2 * 1024 * 1024)
    value = bytes(size) if size > len(noise) else noise
    (letter,) = keep(settings, produce(settings, value))
    assert letter.is_cut
    assert letter.value
    assert value.startswith(letter.value)
    assert letter.whole_bytes == size
    assert letter.value_sha256 == hashlib.sha256(value).hexdigest()
    letters = KafkaDeadLetters(settings)
    assert letters.read_original(letter) == value
    letters.close()


def test_letter_larger_than_a_segment_of_its_topic_is_kept_in_part(
    settings: KafkaSettings, seed: int
) -> None:
    """The other limit of a topic: segment.bytes."""
    topic = topic_name("deadletter", settings.topic_prefix)
    limits = {"max.message.bytes": str(32 << 20), "segment.bytes": str(1 << 20)}
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in limits.items()
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient(settings.client_config())
    (future,) = admin.incremental_alter_configs([resource]).values()
    future.result()
    value = hashlib.shake_256(str(seed).encode()).digest(2 << 20)
    (letter,) = keep(settings, produce(settings, value))
    assert letter.is_cut
    assert letter.whole_bytes == len(value)


def test_large_key_does_not_keep_a_record_from_being_set_aside(settings: KafkaSettings) -> None:
    """Whatever part of a record is large, its letter fits into the topic."""
    record = replace(produce(settings, b"small"), key=b"k" * (3 << 20))
    (letter,) = keep(settings, record)
    assert (letter.value, letter.whole_bytes) == (b"small", 5)
    assert record.key.startswith(letter.key)


def test_small_letters_of_one_flush_stay_whole_beside_a_large_one(settings: KafkaSettings) -> None:
    """Only the letter that does not fit is cut."""
    records = [produce(settings, value) for value in (b"a", bytes(40 << 20), b"b")]
    kept = {letter.offset: letter for letter in keep(settings, *records)}
    assert [kept[record.offset].is_cut for record in records] == [False, True, False]
    assert kept[records[2].offset].value == b"b"


def test_cut_letter_of_a_readable_record_is_stored_by_replay(
    settings: KafkaSettings, clickhouse_url: str
) -> None:
    """Replay reads the whole record by its coordinates, stores it and deletes the letter."""
    batch = metric_batch(names=["m" * 200_000 + str(number) for number in range(8)])
    record = produce(settings, codec.encode(batch))
    letters = keep(settings, record)
    assert letters[0].is_cut
    kept = KafkaDeadLetters(settings)
    stored, failed = replay(clickhouse_url, kept, letters)
    assert (stored, failed) == ([letters[0].id], {})
    assert kept.count() == 0
    kept.close()


def test_replay_refuses_a_cut_letter_whose_record_is_gone(
    settings: KafkaSettings, clickhouse_url: str
) -> None:
    """When the record expired, the letter stays and the sentence says what is left to do."""
    record = produce(settings, bytes(40 << 20))
    letters = keep(settings, record)
    admin = AdminClient(settings.client_config())
    topic, _, number = record.partition.rpartition("/")
    behind = TopicPartition(topic, int(number), record.offset + 1)
    admin.delete_records([behind])[behind].result()
    kept = KafkaDeadLetters(settings)
    stored, failed = replay(clickhouse_url, kept, letters)
    assert stored == []
    assert "of 41,943,040 bytes are kept" in failed[letters[0].id]
    assert "`runwire dead-letters rm`" in failed[letters[0].id]
    assert kept.count() == 1
    kept.close()


def test_foreign_message_in_the_topic_of_letters_does_not_count(settings: KafkaSettings) -> None:
    """What cannot be listed and removed takes no room below the limit."""
    topic = topic_name("deadletter", settings.topic_prefix)
    producer = Producer(settings.client_config())
    for value in (b"foreign", b"", codec.encode(metric_batch()), None):
        producer.produce(topic, value, b"key")
    assert producer.flush(30) == 0
    letters = KafkaDeadLetters(settings, limit=1)
    assert letters.count() == 0
    letters.put(letter_of(produce(settings, b"bad"), "cannot be decoded", at_ns=AT_NS))
    assert letters.flush() == 1
    letters.close()
