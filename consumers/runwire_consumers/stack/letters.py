"""Dead letters: where the worker of this environment keeps them, and how one is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runwire_consumers.clickhouse.client import connect
from runwire_consumers.clickhouse.sink import ClickHouseSink
from runwire_consumers.compose.workers import DEAD_LETTERS_DIR
from runwire_consumers.core.batch import Batch, BatchBuilder, BatchLimits, decode_record
from runwire_consumers.core.clock import Deadline, SystemClock
from runwire_consumers.core.dead_letters import DeadLetters, FileDeadLetters
from runwire_consumers.core.errors import Retryable, RowsRejected
from runwire_consumers.core.source import Record
from runwire_consumers.kafka.schema_ids import kafka_with_registry
from runwire_disk import paths
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import DeadLetter
from runwire_schemas.topics import topic_name


def folder(root: Path) -> Path:
    """Where the embedded worker of this data folder keeps its dead letters."""
    return paths.embedded_dir(root) / DEAD_LETTERS_DIR


def kept_letters(root: Path, environ: Mapping[str, str]) -> tuple[DeadLetters | None, str]:
    """Return the letters and where they lie: the topic when brokers are named, else the folder.

    None where the folder does not exist yet. Raises: KafkaSettingsError.
    """
    kafka = kafka_with_registry(environ)
    if kafka is None:
        place = folder(root)
        return (FileDeadLetters(place) if place.is_dir() else None), str(place)
    from runwire_consumers.kafka.dead_letters import KafkaDeadLetters

    topic = topic_name("deadletter", kafka.topic_prefix)
    return KafkaDeadLetters(kafka), f"topic {topic} at {kafka.bootstrap_servers}"


def replay(
    url: str, kept: DeadLetters, letters: list[DeadLetter]
) -> tuple[list[str], dict[str, str]]:
    """Store the letters that can be stored now; ids stored, and id -> reason of the others.

    The insert token is made of the letter's id, and rows carry their natural key, so doing it
    twice changes nothing. A letter is forgotten only after its rows are stored.
    Raises: Retryable when ClickHouse does not answer; what was stored until then is forgotten.
    """
    sink = ClickHouseSink(url)
    stored: list[str] = []
    failed: dict[str, str] = {}
    try:
        sink.check()
        for letter in letters:
            try:
                sink.write(batch_of(letter))
                stored.append(letter.id)
            except (DecodeError, RowsRejected) as error:
                failed[letter.id] = str(error)
    finally:
        sink.close(Deadline(5.0))
        if stored:
            _forget(url, kept, stored)
    return stored, failed


def batch_of(letter: DeadLetter) -> Batch:
    """The batch that stores this letter's record. Raises: DecodeError."""
    if not letter.value:
        raise DecodeError("the record's bytes are damaged beyond its schema: there is nothing left")
    record = Record(
        stream=letter.stream,
        partition=letter.partition,
        offset=letter.offset,
        last_offset=letter.last_offset,
        append_at_ns=letter.at_ns,
        value=letter.value,
        key=letter.key,
        points=letter.points,
    )
    builder = BatchBuilder(BatchLimits(), SystemClock())
    builder.add(record, decode_record(record))
    return builder.close(f"replay:{letter.id}")


def _forget(url: str, kept: DeadLetters, stored: list[str]) -> None:
    try:
        client = connect(url)
        try:
            client.command(
                "DELETE FROM dead_letters WHERE id IN %(ids)s", parameters={"ids": stored}
            )
        finally:
            client.close()
    except Retryable:
        return  # they are replayed again next time, which changes nothing
    kept.remove(set(stored))
