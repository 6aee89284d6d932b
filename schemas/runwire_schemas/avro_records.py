"""Avro bodies by fastavro; the only module that imports it, loaded when a codec needs it.

Schemas are JSON texts; everything derived from one is cached.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import fastavro
from fastavro.read import SchemaResolutionError
from fastavro.schema import fingerprint, to_parsing_canonical_form
from fastavro.types import Schema
from fastavro.validation import ValidationError

from runwire_schemas.bounds import MESSAGE_BYTES_MAX, compile_check
from runwire_schemas.errors import DecodeError, SchemaError

# More schemas than one process needs; bounded because a registry may hold many.
_SCHEMAS_MAX = 256
# Errors of fastavro for bytes, values or schemas that do not fit; all others are our bugs.
_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    SchemaResolutionError,
    ValidationError,
)


def write(schema: str, record: dict[str, Any]) -> bytes:
    """Return the Avro body of a record. Raises: SchemaError when a value does not fit."""
    out = io.BytesIO()
    parsed = _parsed(schema)
    try:
        fastavro.validate(record, parsed, raise_errors=True)
        fastavro.schemaless_writer(out, parsed, record)
    except _ERRORS as error:
        raise SchemaError(f"event does not fit its schema: {error}") from error
    return out.getvalue()


def read(
    value: bytes,
    start: int,
    *,
    writer: str,
    reader: str | None,
    bytes_max: int = MESSAGE_BYTES_MAX,
) -> dict[str, Any]:
    """Return the record from `start` to the end of `value`, in the shape of the schema `reader`.

    Without a reader it has the writer's own shape. Raises: DecodeError; nothing else.
    """
    if len(value) > bytes_max:
        raise DecodeError(f"message has {len(value)} bytes, the limit is {bytes_max}")
    _check(writer)(value, start)
    body = io.BytesIO(value)
    body.seek(start)
    try:
        record: Any = fastavro.schemaless_reader(
            body, _parsed(writer), None if reader is None else _parsed(reader)
        )
    except _ERRORS as error:
        raise DecodeError(f"record cannot be read: {error}") from error
    fields: dict[str, Any] = record
    return fields


def fingerprint_of(schema: str) -> str:
    """Return the CRC-64-AVRO fingerprint of a schema's canonical form. Raises: SchemaError."""
    try:
        _check(schema)
        return fingerprint(to_parsing_canonical_form(_parsed(schema)), "CRC-64-AVRO")
    except _ERRORS as error:
        raise SchemaError(f"this is no Avro schema: {error!r}") from error


@lru_cache(_SCHEMAS_MAX)
def _parsed(schema: str) -> Schema:
    return fastavro.parse_schema(json.loads(schema))


@lru_cache(_SCHEMAS_MAX)
def _check(schema: str) -> Callable[[bytes, int], None]:
    return compile_check(json.loads(schema))
