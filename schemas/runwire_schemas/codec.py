"""Codec between events and messages: Confluent header (0x00, schema id as big-endian u32), Avro.

Bundled schemas have ids in a reserved high range, so that no registry is needed and none collides;
all other ids go to the resolver, if the process has one. Any bytes from outside decode to an event
or raise DecodeError.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Final

from runwire_schemas.bounds import LETTER_BYTES_MAX, MESSAGE_BYTES_MAX
from runwire_schemas.errors import DecodeError, RunwireError, SchemaError
from runwire_schemas.events import EVENTS, Event, MetricBatch
from runwire_schemas.metric_encode import MetricParts, encode_parts, parts_of
from runwire_schemas.topics import TOPICS

# fastavro is imported by avro_records, in functions: metric batches are written without it, so
# the spool's reader stays as light as the trainer needs it.

BUNDLED_ID_BASE: Final = 0x7F000000
"""Ids of the schemas that come with the package: a high range that no registry reaches."""

BUNDLED: Final[dict[int, tuple[str, str]]] = {
    BUNDLED_ID_BASE + 1: ("run.v1", "daf10edff2586ac6"),
    BUNDLED_ID_BASE + 2: ("param.v1", "4ceb162c2ebb80c8"),
    BUNDLED_ID_BASE + 3: ("metric.v1", "8dc69071044cb53b"),
    BUNDLED_ID_BASE + 4: ("heartbeat.v1", "1067af081b41db2f"),
    BUNDLED_ID_BASE + 5: ("log.v1", "4df17f2ae8a6eb7c"),
    BUNDLED_ID_BASE + 6: ("deadletter.v1", "e4645a9c98b5766a"),
    BUNDLED_ID_BASE + 7: ("checkpoint.v1", "b1d66e1ea9d602fe"),
    BUNDLED_ID_BASE + 8: ("artifact.v1", "23901c2b32d7ebda"),
    BUNDLED_ID_BASE + 9: ("chunk.v1", "3e80f0581e4e5836"),
    BUNDLED_ID_BASE + 10: ("run.v2", "2e938f23ae2989b9"),
    BUNDLED_ID_BASE + 16: ("deadletter.v2", "b9df1dd189bb1c4c"),
    BUNDLED_ID_BASE + 17: ("metric.v2", "612d32d6f4c4e5f3"),
}
"""Schema stem and CRC-64-AVRO fingerprint by id. Rows are only added, because old messages stay."""

HEADER_BYTES = 5
_HEADER = struct.Struct(">BI")
_AVRO_DIR = Path(__file__).parent / "avro"  # importlib.resources is slow to import


@dataclass(frozen=True, slots=True)
class _Writer:
    """One schema that messages may be written with."""

    kind: str
    fingerprint: str
    text: str


@dataclass(frozen=True, slots=True)
class _Current:
    """Fingerprint and message header of the schema in force for one kind."""

    fingerprint: str
    header: bytes


Resolver = Callable[[int], str | None]
"""From schema id to the schema's JSON text, None for an unknown id."""

_learned: dict[int, _Writer] = {}
_resolver: Resolver | None = None


def encode(event: Event) -> bytes:
    """Return an event as a message. Raises: SchemaError when a value does not fit its field."""
    kind = _kind_of_class(type(event))
    if isinstance(event, MetricBatch):
        return encode_metric_parts(parts_of(event))
    from runwire_schemas import avro_records

    record = {field.name: getattr(event, field.name) for field in fields(event)}
    return _current(kind).header + avro_records.write(schema_json(kind), record)


def encode_metric_parts(parts: MetricParts) -> bytes:
    """Return the message of a metric batch whose points are ready bytes.

    Raises: SchemaError when the parts do not fit together.
    """
    return _current("metric").header + encode_parts(parts)


def decode(value: bytes, *, kind: str = "") -> Event:
    """Return the event in a message, in the shape of the schema in force today.

    With `kind`, what its topic carries, the bundled schemas of that kind are tried where the id
    yields none that fits: a registry that was reset gives old ids to other schemas.
    Raises: DecodeError for any other bytes, and the errors of the resolver.
    """
    try:
        event = _decode_as(value, _writer(value))
        if not kind or isinstance(event, EVENTS[kind]):
            return event
    except RunwireError:
        again = _decode_as_bundled(value, kind)
        if again is None:
            raise
        return again
    return _decode_as_bundled(value, kind) or event


def kind_of(value: bytes) -> str:
    """Return the kind of a message by its header alone. Raises: DecodeError when unknown."""
    return _writer(value).kind


def is_current(value: bytes, kind: str) -> bool:
    """Return whether a message was written with exactly the schema in force for `kind`."""
    return _writer(value).fingerprint == _current(kind).fingerprint


def stem_of(value: bytes) -> str:
    """Return the bundled schema that a message was written with, by its header alone.

    Empty for a schema that is not bundled. Raises: DecodeError when unknown.
    """
    fingerprint = _writer(value).fingerprint
    return next((stem for stem, known in BUNDLED.values() if known == fingerprint), "")


@cache
def schema_json(kind: str) -> str:
    """Return the text of the schema in force for a kind. Raises: SchemaError when it has none."""
    topic = TOPICS.get(kind)
    if topic is None or topic.schema is None:
        raise SchemaError(f"kind {kind!r} has no schema")
    return _schema_text(topic.schema)


def schema_versions(kind: str) -> list[str]:
    """Return the texts of all bundled versions of a kind's schema, oldest first."""
    stems = [stem for stem, _ in BUNDLED.values() if stem.partition(".")[0] == kind]
    return [_schema_text(stem) for stem in stems]


def bundled_id(kind: str) -> int:
    """Return the id that messages of a kind carry. Raises: SchemaError when it has no schema."""
    schema_id: int = _HEADER.unpack(_current(kind).header)[1]
    return schema_id


def resolve_with(resolver: Resolver | None) -> None:
    """Ask `resolver` about unknown ids from now on, forgetting all learned ones; None asks nobody.

    What it raises comes out of `decode`: for "no answer now", never for "no such schema".
    """
    global _resolver
    _resolver = resolver
    _learned.clear()  # another registry numbers its schemas differently


def learn_schema(schema_id: int, text: str) -> str:
    """Accept messages that a registry numbered `schema_id`; return their kind.

    Raises: SchemaError when the id is reserved or taken, or the schema is no record of ours.
    """
    if schema_id & 0xFF000000 == BUNDLED_ID_BASE:
        raise SchemaError(f"schema id {schema_id} lies in the range reserved for bundled schemas")
    from runwire_schemas import avro_records

    fingerprint = avro_records.fingerprint_of(text)
    kinds = {_full_name(schema_json(kind)): kind for kind in EVENTS}
    kind = kinds.get(_full_name(text))
    if kind is None:
        raise SchemaError(f"schema {schema_id} is {_full_name(text)!r}, no record of runwire")
    writer = _Writer(kind, fingerprint, text)
    known = _learned.setdefault(schema_id, writer)
    if known.fingerprint != writer.fingerprint:
        raise SchemaError(f"schema id {schema_id} is taken by another schema")
    return writer.kind


def _decode_as_bundled(value: bytes, kind: str) -> Event | None:
    """Return the event under the newest bundled schema of a kind that fits the whole message.

    None when none fits, and for ids in the reserved range, which no registry gives.
    """
    if len(value) < HEADER_BYTES or value[0] != 0 or value[1] == BUNDLED_ID_BASE >> 24:
        return None
    for writer in reversed(_bundled().values()):
        if writer.kind == kind:
            try:
                return _decode_as(value, writer)
            except DecodeError:
                continue
    return None


def _decode_as(value: bytes, writer: _Writer) -> Event:
    from runwire_schemas import avro_records

    same = writer.fingerprint == _current(writer.kind).fingerprint
    record = avro_records.read(
        value,
        HEADER_BYTES,
        writer=writer.text,
        reader=None if same else schema_json(writer.kind),
        bytes_max=LETTER_BYTES_MAX if writer.kind == "deadletter" else MESSAGE_BYTES_MAX,
    )
    event = EVENTS[writer.kind](**record)
    if isinstance(event, MetricBatch):
        _check_batch(event)
    return event


def _check_batch(batch: MetricBatch) -> None:
    calls = (len(batch.call_seq), len(batch.call_step), len(batch.call_at_ms), len(batch.call_n))
    if len(set(calls)) != 1:
        raise DecodeError(f"the call_ arrays have different lengths: {calls}")
    if batch.call_n and min(batch.call_n) < 0:
        raise DecodeError("call_n is negative")
    points = (sum(batch.call_n), len(batch.name_idx), len(batch.value))
    if len(set(points)) != 1:
        raise DecodeError(f"call_n, name_idx and value disagree about the points: {points}")
    if batch.name_idx and not 0 <= min(batch.name_idx) <= max(batch.name_idx) < len(batch.names):
        raise DecodeError(f"name_idx points outside of the {len(batch.names)} names")


def _writer(value: bytes) -> _Writer:
    if len(value) < HEADER_BYTES:
        raise DecodeError(f"message has {len(value)} bytes, its header takes {HEADER_BYTES}")
    magic, schema_id = _HEADER.unpack_from(value)
    if magic != 0:
        raise DecodeError(f"message starts with byte {magic:#04x} and not with the header's 0x00")
    writer = _bundled().get(schema_id) or _learned.get(schema_id) or _resolved(schema_id)
    if writer is None:
        raise DecodeError(f"schema id {schema_id} is unknown; was it written by a newer runwire?")
    return writer


def _resolved(schema_id: int) -> _Writer | None:
    if _resolver is None or schema_id & 0xFF000000 == BUNDLED_ID_BASE:
        return None
    text = _resolver(schema_id)
    if text is None:
        return None
    try:
        learn_schema(schema_id, text)
    except SchemaError as error:
        raise DecodeError(f"the registry's schema cannot be used: {error}") from error
    return _learned[schema_id]


@cache
def _bundled() -> dict[int, _Writer]:
    return {
        schema_id: _Writer(stem.partition(".")[0], fingerprint, _schema_text(stem))
        for schema_id, (stem, fingerprint) in BUNDLED.items()
    }


@cache
def _current(kind: str) -> _Current:
    topic = TOPICS.get(kind)
    for schema_id, (stem, fingerprint) in BUNDLED.items():
        if topic is not None and stem == topic.schema:
            return _Current(fingerprint, _HEADER.pack(0, schema_id))
    raise SchemaError(f"kind {kind!r} has no schema")


def _kind_of_class(event_class: type[Event]) -> str:
    for kind, known in EVENTS.items():
        if known is event_class:
            return kind
    raise SchemaError(f"{event_class.__name__} is no event class")


def _full_name(text: str) -> str:
    raw: Any = json.loads(text)
    if not isinstance(raw, dict) or "name" not in raw:
        return str(raw)
    name: str = raw["name"]
    return name if "." in name else f"{raw.get('namespace', '')}.{name}"


def _schema_text(stem: str) -> str:
    return (_AVRO_DIR / f"{stem}.avsc").read_text(encoding="utf-8")
