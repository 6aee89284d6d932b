"""Columns of a metric batch, and its encoder: point values are copied, the rest is encoded here.

It writes the bytes that fastavro would write (a property test compares them) without importing it.
`COLUMNS` is the one list of columns: encoder and decoder run through it, and every class that
names the columns again is compared with it on import.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from typing import Any, Final, NamedTuple

from runwire_schemas.bounds import MESSAGE_BYTES_MAX
from runwire_schemas.errors import SchemaError
from runwire_schemas.events import MetricBatch
from runwire_schemas.varint import encode_long, encode_longs, encode_text

__all__ = ["COLUMNS", "ColumnType", "MetricParts", "encode_parts", "parts_of", "require_columns"]

_HIGH_BYTES: Final = bytes(range(128, 256))
_END: Final = b"\x00"  # of an array
_HEADER_BYTES: Final = 5  # of the message, before the body
_READY: Final = ("name_idx_bytes", "points", "value_bytes")


class ColumnType(Enum):
    """The Avro type of a column."""

    TEXT = "string"
    INT = "int"
    LONG = "long"
    TEXTS = "array of string"
    LONGS = "array of long"
    INTS = "array of int"
    DOUBLES = "array of double"


COLUMNS: Final[Mapping[str, ColumnType]] = {
    "project": ColumnType.TEXT,
    "run_id": ColumnType.TEXT,
    "attempt": ColumnType.TEXT,
    "writer": ColumnType.TEXT,
    "rank": ColumnType.INT,
    "batch_seq": ColumnType.LONG,
    "points_before": ColumnType.LONG,
    "names": ColumnType.TEXTS,
    "call_seq": ColumnType.LONGS,
    "call_step": ColumnType.LONGS,
    "call_at_ms": ColumnType.LONGS,
    "call_n": ColumnType.INTS,
    "name_idx": ColumnType.INTS,
    "value": ColumnType.DOUBLES,
}
"""Columns in the order of the Avro record `metric.v2`."""


class MetricParts(NamedTuple):
    """A metric batch whose points are ready bytes.

    Shapes: call_* have one item per call, name_idx_bytes holds `points` varints and value_bytes
    `points` little-endian doubles.
    """

    project: str
    run_id: str
    attempt: str
    writer: str
    rank: int
    batch_seq: int
    points_before: int
    names: Sequence[str]
    call_seq: Sequence[int]
    call_step: Sequence[int]
    call_at_ms: Sequence[int]
    call_n: Sequence[int]
    name_idx_bytes: bytes
    points: int
    value_bytes: bytes


def require_columns(listed: Iterable[str], where: str) -> None:
    """Compare a list of columns with `COLUMNS`. Raises: SchemaError when it differs."""
    names = tuple(listed)
    if names != tuple(COLUMNS):
        difference = sorted(set(names) ^ set(COLUMNS)) or "their order"
        raise SchemaError(f"{where} and the columns of metric batches differ in {difference}")


require_columns((field.name for field in fields(MetricBatch)), "MetricBatch")
require_columns(
    (name.removesuffix("_bytes") for name in MetricParts._fields if name != "points"), "MetricParts"
)
_copied_columns = operator.attrgetter(*(n for n in MetricParts._fields if n not in _READY))


def parts_of(batch: MetricBatch) -> MetricParts:
    """Return a batch with its points as bytes. Raises: SchemaError when a value does not fit."""
    if batch.name_idx and not 0 <= min(batch.name_idx) <= max(batch.name_idx) < len(batch.names):
        raise SchemaError("name_idx of a metric batch points outside of names")
    try:
        name_idx_bytes = encode_longs(batch.name_idx)
        value_bytes = struct.pack(f"<{len(batch.value)}d", *batch.value)
    except (OverflowError, TypeError, struct.error) as error:
        raise SchemaError(f"metric batch does not fit its schema: {error}") from error
    points = len(batch.name_idx)
    return MetricParts._make((*_copied_columns(batch), name_idx_bytes, points, value_bytes))


def encode_parts(parts: MetricParts) -> bytes:
    """Return the Avro body of a metric batch.

    Raises: SchemaError when the parts do not fit together or a value does not fit its field. The
    caller ensures that each index points into names.
    """
    _check_shapes(parts)
    count = encode_long(parts.points) if parts.points else b""
    try:
        body = b"".join(
            # `map` ends with the encoders: the parts after them are bytes already.
            (
                *map(operator.call, _ENCODERS, parts),
                *(count, parts.name_idx_bytes, _END, count, parts.value_bytes, _END),
            )
        )
    except (AttributeError, OverflowError, TypeError, UnicodeEncodeError) as error:
        raise SchemaError(
            f"metric batch of writer {parts.writer!r} cannot be encoded: {error}"
        ) from error
    if len(body) + _HEADER_BYTES > MESSAGE_BYTES_MAX:
        raise SchemaError(
            f"metric batch of writer {parts.writer!r} has {len(body)} bytes, more than a message "
            f"of {MESSAGE_BYTES_MAX} can hold; cut it into smaller batches"
        )
    return body


def _int(number: int) -> bytes:
    if not -(1 << 31) <= number < 1 << 31:
        raise SchemaError(f"rank {number} does not fit 32 bits")
    return encode_long(number)


def _longs(numbers: Sequence[int]) -> bytes:
    if not numbers:
        return _END
    return b"".join((encode_long(len(numbers)), encode_longs(numbers), _END))


def _texts(texts: Sequence[str]) -> bytes:
    if not texts:
        return _END
    return b"".join((encode_long(len(texts)), *map(encode_text, texts), _END))


_ENCODER_OF: Final[Mapping[ColumnType, Callable[[Any], bytes]]] = {
    ColumnType.TEXT: encode_text,
    ColumnType.INT: _int,
    ColumnType.LONG: encode_long,
    ColumnType.TEXTS: _texts,
    ColumnType.LONGS: _longs,
    ColumnType.INTS: _longs,  # call_n: each is at most the number of points, which fits
}
# Of all columns but the two that are ready bytes, which are the last.
_ENCODERS: Final = [_ENCODER_OF[COLUMNS[n]] for n in MetricParts._fields if n not in _READY]


def _check_shapes(parts: MetricParts) -> None:
    call_n, points = parts.call_n, parts.points
    calls = (len(parts.call_seq), len(parts.call_step), len(parts.call_at_ms), len(call_n))
    if calls.count(calls[0]) != len(calls):
        raise SchemaError(f"the call_ arrays of a metric batch have different lengths: {calls}")
    if call_n and min(call_n) < 0:
        raise SchemaError("call_n of a metric batch is negative")
    total = sum(call_n)
    indexes = len(parts.name_idx_bytes.translate(None, _HIGH_BYTES))
    if not (total == points == indexes and len(parts.value_bytes) == 8 * points):
        raise SchemaError(
            f"a metric batch of {points} points has {total} by call_n, {indexes} indexes and "
            f"{len(parts.value_bytes)} bytes of values"
        )
