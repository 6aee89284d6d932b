"""The sink of the object worker: decodes pieces, stages them, and passes complete artifacts on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

from runwire_consumers.core.batch import Batch, Decoded, decode_record
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.errors import Rejection, Retryable, RowsRejected
from runwire_consumers.core.sink import Refusals, write_each
from runwire_consumers.core.source import Record
from runwire_consumers.objects.completion import Announce
from runwire_consumers.objects.staging import Staging, fault_of
from runwire_schemas import codec
from runwire_schemas.bounds import MESSAGE_BYTES_MAX, compile_check
from runwire_schemas.errors import DecodeError, RunwireError
from runwire_schemas.events import ArtifactEvent, Chunk
from runwire_schemas.varint import read_long
from runwire_store.announce import SHIPPED, failed_event
from runwire_store.manifest import ManifestError, check_files
from runwire_store.pieces import FILE_BYTES_MAX, PieceList
from runwire_store.store import UNAVAILABLE, StoreRefused

_log = logging.getLogger("runwire.objects")

CHUNK: Final = "chunk"
ARTIFACT: Final = "artifact"
# Failures of the store pass in seconds; a person needs longer to correct a refusal.
_AWAY_S, _REFUSED_S = 1.0, 5.0


def decode_lean(record: Record) -> Decoded:
    """Decode a record like `decode_record`, but a piece's payload is a view of its message.

    So a batch holds each payload once.

    Raises: DecodeError as `decode_record`.
    """
    value = record.value
    if record.stream != CHUNK or not _is_current(value):
        return decode_record(record)
    if len(value) > MESSAGE_BYTES_MAX:
        raise DecodeError(f"message has {len(value)} bytes, the limit is {MESSAGE_BYTES_MAX}")
    check, kinds = _shape()
    check(value, codec.HEADER_BYTES)  # now every length is within the message
    view, at = memoryview(value), codec.HEADER_BYTES
    fields: dict[str, Any] = {}
    for name, kind in kinds.items():
        number, at = read_long(value, at)
        if kind == "long":
            fields[name] = number
            continue
        data, at = view[at : at + number], at + number
        try:
            fields[name] = str(data, "utf-8") if kind == "string" else data
        except UnicodeDecodeError as error:
            raise DecodeError(f"record cannot be read: {error}") from error
    fields["digest"] = bytes(fields["digest"])
    return Chunk(**fields)


def _is_current(value: bytes) -> bool:
    try:
        return codec.is_current(value, CHUNK)
    except RunwireError:  # an id that is unknown, or cannot be asked for now: the codec tries more
        return False


@cache
def _shape() -> tuple[Any, dict[str, str]]:
    schema = json.loads(codec.schema_json(CHUNK))
    kinds = {field["name"]: field["type"] for field in schema["fields"]}
    assert set(kinds.values()) <= {"string", "long", "bytes"}
    return compile_check(schema), kinds


class ObjectSink:
    """Writes pieces and manifests to a store; `finish` gets artifacts that may be complete.

    Writing a batch again, whole or with other bounds, leads to the same artifacts.
    """

    def __init__(self, staging: Staging, finish: Callable[[str], None], announce: Announce) -> None:
        self._staging, self._finish, self._announce = staging, finish, announce

    def check(self) -> None:
        """Prove that the store can be read."""
        try:
            self._staging.store.check()
        except UNAVAILABLE as error:
            raise retryable(error) from error

    def prepare(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return the batches as they are: pieces need no other form."""
        return list(batches)

    def write_round(self, batches: Sequence[Batch]) -> Refusals:
        """Store the events of the batches, one batch after the other."""
        return write_each(batches, self.write)

    def write(self, batch: Batch) -> None:
        """Store the events of a batch. Raises: RowsRejected, Retryable."""
        chunks = [event for event in batch.events.get(CHUNK, []) if isinstance(event, Chunk)]
        events = [e for e in batch.events.get(ARTIFACT, []) if isinstance(e, ArtifactEvent)]
        self._reject(chunks, events)
        shipped = [event for event in events if event.event == SHIPPED]
        try:
            self._staging.add(chunks)
            for event in shipped:
                self._staging.add_shipped(event.artifact, (event.manifest or "").encode())
            # Only now, by the second invariant of staging.
            touched = {(e.project, e.run_id, e.artifact) for e in chunks}
            touched |= {(e.project, e.run_id, e.artifact) for e in shipped}
            for project, run_id, artifact in sorted(touched):
                self._look(project, run_id, artifact)
        except UNAVAILABLE as error:
            raise retryable(error) from error

    def close(self, deadline: Deadline) -> None:
        """End the threads; the caller closes the store."""
        self._staging.close()

    def _look(self, project: str, run_id: str, artifact: str) -> None:
        if self._staging.is_shipped(artifact):
            self._finish(artifact)
        elif self._staging.is_published(project, run_id, artifact):
            self._staging.forget(artifact)

    def _reject(self, chunks: Sequence[Chunk], events: Sequence[ArtifactEvent]) -> None:
        faults = [
            Rejection(CHUNK, index, fault)
            for index, chunk in enumerate(chunks)
            if (fault := fault_of(chunk))
        ]
        for index, event in enumerate(events):
            if event.event == SHIPPED and (fault := _shipped_fault(event)):
                faults.append(Rejection(ARTIFACT, index, fault))
                self._announce([failed_event(event, fault)])
        if faults:
            raise RowsRejected(faults)


def retryable(error: Exception) -> Retryable:
    """Return an error of the store as a retry: the worker keeps the batch and nothing is lost."""
    return Retryable(_REFUSED_S if isinstance(error, StoreRefused) else _AWAY_S, str(error))


def _shipped_fault(event: ArtifactEvent) -> str:
    """Return the reason why a shipped artifact can never be published, "" if it can."""
    try:
        listed = PieceList.from_json(event.manifest or "")
        check_files(listed.manifest.files)
    except ManifestError as error:
        return str(error)
    own = listed.manifest
    if (own.project, own.run_id, own.artifact) != (event.project, event.run_id, event.artifact):
        return f"the event of {event.artifact[:40]!r} carries the manifest of {own.artifact[:40]!r}"
    if (size := max(listed.sizes.values(), default=0)) > FILE_BYTES_MAX:
        return (
            f"a file of {size} bytes cannot be put together from pieces, at most {FILE_BYTES_MAX}: "
            "send it with RUNWIRE_ARTIFACT_ROUTE=direct or reference"
        )
    return ""
