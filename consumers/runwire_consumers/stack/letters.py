"""Dead letters of one data root or one cluster: where they are kept, counted and replayed.

Everything but the replay works with the base dependencies, so imports of drivers are inside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runwire_consumers.core.dead_letters import DeadLetters, FileDeadLetters
from runwire_consumers.core.errors import Retryable, RowsRejected
from runwire_consumers.core.source import Record
from runwire_consumers.kafka.schema_ids import kafka_with_registry
from runwire_disk.paths import letters_dir
from runwire_disk.spool.format import LOCAL, OVERSIZED_GLOB, SpoolError, destination_of
from runwire_disk.spool.reader import list_folders, read_meta
from runwire_disk.survey import OK, WARN, Finding, Section, labelled
from runwire_schemas.connections.kafka import DEFAULT_TOPIC_PREFIX
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import DeadLetter
from runwire_schemas.topics import topic_name

if TYPE_CHECKING:
    from runwire_consumers.core.batch import Batch


def survey_dead_letters(root: Path) -> Section:
    """Return how many records the embedded worker could not store."""
    count = count_letters(root)
    lines = [labelled("dead letters", str(count))]
    return Section(name="dead letters", order=30, facts={"dead_letters": count}, lines=lines)


def check_dead_letters(root: Path) -> Section:
    """Check that every record could be stored."""
    count = count_letters(root)
    finding = Finding(OK, "dead letters", "none")
    if count:
        advice = "`runwire dead-letters ls` names reasons"
        finding = Finding(WARN, "dead letters", str(count), advice)
    return Section(name="dead letters", order=30, findings=[finding])


def count_letters(root: Path) -> int:
    """Return the number of letters of the embedded worker."""
    folder = letters_dir(root)
    return FileDeadLetters(folder).count() if folder.is_dir() else 0


def open_letters(root: Path, environ: Mapping[str, str]) -> tuple[DeadLetters | None, str]:
    """Return the letters and their place: the topic when brokers are named, else the folder.

    None where the folder does not exist yet. Raises: KafkaSettingsError.
    """
    kafka = kafka_with_registry(environ)
    if kafka is None:
        place = letters_dir(root)
        return (FileDeadLetters(place) if place.is_dir() else None), str(place)
    from runwire_consumers.kafka.dead_letters import KafkaDeadLetters

    topic = topic_name("deadletter", kafka.topic_prefix)
    return KafkaDeadLetters(kafka), f"topic {topic} at {kafka.bootstrap_servers}"


def oversized_records(root: Path) -> list[Path]:
    """Return the files of records that are larger than their topics accept."""
    return sorted(path for folder in list_folders(root) for path in folder.glob(OVERSIZED_GLOB))


def letter_topics(root: Path) -> list[str]:
    """Return the dead-letter topics of the destinations that have folders in the spool."""
    topics = set()
    for folder in list_folders(root):
        try:
            meta = read_meta(folder)
        except (SpoolError, OSError):
            continue
        if destination_of(meta) != LOCAL:
            prefix = meta.destination.get("topic_prefix", DEFAULT_TOPIC_PREFIX)
            where = meta.destination.get("bootstrap_servers", "unknown brokers")
            topics.add(f"topic {topic_name('deadletter', prefix)} at {where}")
    return sorted(topics)


def replay(
    url: str, kept: DeadLetters, letters: list[DeadLetter]
) -> tuple[list[str], dict[str, str]]:
    """Store the letters that can be stored now; ids stored, and id -> reason of the others.

    The insert token is made of the letter's id, and rows carry their natural key, so a repeat
    changes nothing. A letter is deleted only after its rows are stored.
    Raises: Retryable when ClickHouse does not answer; stored letters are deleted before.
    """
    from runwire_consumers.clickhouse.sink import ClickHouseSink
    from runwire_consumers.core.clock import Deadline

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
            _delete(url, kept, stored)
    return stored, failed


def batch_of(letter: DeadLetter) -> Batch:
    """Return the batch that stores this letter's record. Raises: DecodeError."""
    from runwire_consumers.core.batch import BatchBuilder, BatchLimits, decode_record
    from runwire_consumers.core.clock import SystemClock

    if not letter.value:
        raise DecodeError("the record's bytes are damaged beyond its schema: nothing is left")
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


def _delete(url: str, kept: DeadLetters, stored: list[str]) -> None:
    from runwire_consumers.clickhouse.client import connect

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
