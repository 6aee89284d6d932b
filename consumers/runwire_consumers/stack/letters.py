"""Dead letters of one data root or one cluster: where they are kept, counted and replayed.

Everything but the replay works with the base dependencies, so imports of drivers are inside it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runwire_consumers.core.dead_letters import DeadLetters, FileDeadLetters
from runwire_consumers.core.errors import PiecesNeeded, Retryable, RowsRejected
from runwire_consumers.core.source import Record
from runwire_consumers.kafka.schema_ids import kafka_with_registry
from runwire_disk.paths import letters_dir
from runwire_disk.spool.format import LOCAL, OVERSIZED_GLOB, SpoolError, destination_of
from runwire_disk.spool.letters import LOSS_INDEX, letter_id
from runwire_disk.spool.reader import list_folders, read_meta
from runwire_disk.survey import OK, WARN, Finding, Section, labelled
from runwire_schemas import codec
from runwire_schemas.connections.kafka import DEFAULT_TOPIC_PREFIX
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import DeadLetter
from runwire_schemas.topics import topic_name

if TYPE_CHECKING:
    from runwire_consumers.core.batch import Batch
    from runwire_consumers.core.sink import Sink


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


@dataclass(frozen=True, slots=True, kw_only=True)
class OversizedRecord:
    """A file with a record that no broker takes; its letter is as the agent sent it, if it could.

    `size` is the size of the file; the letter has none of its bytes.
    """

    path: Path
    size: int
    letter: DeadLetter


def oversized_records(root: Path) -> list[OversizedRecord]:
    """Return the records of this node that are larger than their topics accept."""
    records = []
    for folder in list_folders(root):
        for path in sorted(folder.glob(OVERSIZED_GLOB)):
            try:
                records.append(_oversized(folder, path))
            except FileNotFoundError:
                continue  # removed meanwhile
    return records


def _oversized(folder: Path, path: Path) -> OversizedRecord:
    writer, project, run_id = folder.name, "", ""
    with contextlib.suppress(SpoolError, OSError):
        meta = read_meta(folder)
        writer, project, run_id = meta.writer, meta.project, meta.run_id
    with path.open("rb") as file:
        head = file.read(codec.HEADER_BYTES)
        info = os.fstat(file.fileno())
    stream = ""
    with contextlib.suppress(DecodeError):  # the spool has bundled ids: no registry is asked
        stream = codec.kind_of(head)
    _, series, seq = path.stem.split("-", 2)
    partition, first = f"{writer}/{series}", int(seq) if seq.isdecimal() else 0
    letter = DeadLetter(
        id=letter_id(stream=stream, partition=partition, first=first, last=first, index=LOSS_INDEX),
        stream=stream,
        partition=partition,
        offset=first,
        last_offset=first,
        at_ns=info.st_mtime_ns,
        reason="a record larger than its topic accepts",
        points=0,
        key=writer.encode(),
        value=b"",
        project=project,
        run_id=run_id,
    )
    return OversizedRecord(path=path, size=info.st_size, letter=letter)


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
    changes nothing. A letter is deleted only after its rows are stored. The rest of a cut letter is
    read from the record's own topic.
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
                batch = batch_of(_whole(kept, letter))
            except (
                DecodeError,
                Retryable,
            ) as error:  # Retryable: of its registry, not of the store
                failed[letter.id] = str(error)
                continue
            try:
                _store(sink, batch)
                stored.append(letter.id)
            except RowsRejected as error:
                failed[letter.id] = str(error)
    finally:
        sink.close(Deadline(5.0))
        if stored:
            _delete(url, kept, stored)
    return stored, failed


def _store(sink: Sink, batch: Batch) -> None:
    """Write a batch, in pieces where the store takes it only so. Raises: RowsRejected, Retryable.

    A repetition may choose other pieces: rows that are stored already collapse by the tables' keys.
    """
    from runwire_consumers.clickhouse.refusals import REFUSALS_MAX

    failures = 0
    while True:
        try:
            sink.write(batch)
            return
        except PiecesNeeded as need:
            batch = batch.in_pieces(need.pieces)
        except Retryable:
            failures += 1
            if failures >= REFUSALS_MAX:  # a sink that asks for pieces does so by now
                raise


def _whole(kept: DeadLetters, letter: DeadLetter) -> DeadLetter:
    """Return the letter with its whole value. Raises: DecodeError when the rest is gone."""
    if not letter.is_cut:
        return letter
    try:
        value = kept.read_original(letter)
    except Retryable as error:
        raise DecodeError(
            f"{_cut_sentence(letter)}, and the rest cannot be read: {error}"
        ) from error
    if value is None:
        raise DecodeError(
            f"{_cut_sentence(letter)}, and the record is no longer at offset {letter.offset} of "
            f"{letter.partition}: it can only be deleted, with `runwire dead-letters rm`"
        )
    return replace(letter, value=value, value_bytes=0, value_sha256="")


def _cut_sentence(letter: DeadLetter) -> str:
    return f"only the first {len(letter.value):,} of {letter.whole_bytes:,} bytes are kept"


def batch_of(letter: DeadLetter) -> Batch:
    """Return the batch that stores this letter's record. Raises: DecodeError."""
    from runwire_consumers.core.batch import BatchBuilder, decode_record

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
    builder = BatchBuilder()
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
