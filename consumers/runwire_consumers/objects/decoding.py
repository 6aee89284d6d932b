"""Reads pieces without copying them: a batch holds each payload once, inside its message."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from runwire_consumers.core.batch import Decoded, decode_record
from runwire_consumers.core.source import Record
from runwire_schemas import codec
from runwire_schemas.bounds import MESSAGE_BYTES_MAX, compile_check
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import Chunk
from runwire_schemas.varint import read_long

CHUNK: Final = "chunk"


def decode_lean(record: Record) -> Decoded:
    """Return what `decode_record` returns; the payload of a piece is a view of its message.

    Raises: DecodeError as `decode_record`.
    """
    value = record.value
    if record.stream != CHUNK or not codec.is_current(value, CHUNK):
        return decode_record(record)
    if len(value) > MESSAGE_BYTES_MAX:
        raise DecodeError(f"message has {len(value)} bytes, the limit is {MESSAGE_BYTES_MAX}")
    check, kinds = _shape()
    check(value, codec.HEADER_BYTES)  # from here on every length lies within the message
    view, at = memoryview(value), codec.HEADER_BYTES
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        number, at = read_long(value, at)
        if kind == "long":
            found[name] = number
            continue
        data, at = view[at : at + number], at + number
        try:
            found[name] = str(data, "utf-8") if kind == "string" else data
        except UnicodeDecodeError as error:
            raise DecodeError(f"record cannot be read: {error}") from error
    found["digest"] = bytes(found["digest"])
    return Chunk(**found)


@cache
def _shape() -> tuple[Any, dict[str, str]]:
    schema = json.loads(codec.schema_json(CHUNK))
    kinds = {field["name"]: field["type"] for field in schema["fields"]}
    assert set(kinds.values()) <= {"string", "long", "bytes"}
    return compile_check(schema), kinds
