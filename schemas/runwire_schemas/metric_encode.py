"""Encodes metric batches without fastavro: values are copied, only per-call fields are encoded.

The bytes are those fastavro would write (a property test compares them).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from runwire_schemas.bounds import MESSAGE_BYTES_MAX
from runwire_schemas.errors import SchemaError
from runwire_schemas.varint import encode_long, encode_longs, encode_text

_HIGH_BYTES = bytes(range(128, 256))


def encode_fields(  # noqa: PLR0913 - one argument per field of the record
    *,
    project: str,
    run_id: str,
    attempt: str,
    writer: str,
    rank: int,
    batch_seq: int,
    names: Sequence[str],
    call_seq: Sequence[int],
    call_step: Sequence[int],
    call_at_ms: Sequence[int],
    call_n: Sequence[int],
    name_idx_bytes: bytes,
    points: int,
    value_bytes: bytes,
) -> bytes:
    """Return the Avro body of a MetricBatch whose points are given as ready bytes.

    Shapes: name_idx_bytes holds `points` varints, value_bytes `points` little-endian doubles.
    Raises: SchemaError when the parts do not fit together or a value fits no field. That each
    index lies within names is the caller's promise.
    """
    _check_shapes(
        calls=(len(call_seq), len(call_step), len(call_at_ms), len(call_n)),
        call_n=call_n,
        points=points,
        indexes=len(name_idx_bytes.translate(None, _HIGH_BYTES)),
        value_bytes=len(value_bytes),
    )
    if not -(1 << 31) <= rank < 1 << 31:
        raise SchemaError(f"rank {rank} does not fit 32 bits")
    end = b"\x00"
    count = encode_long(points) if points else b""
    try:
        body = b"".join(
            chain(
                map(encode_text, (project, run_id, attempt, writer)),
                (encode_long(rank), encode_long(batch_seq)),
                (encode_long(len(names)) if names else b"", *map(encode_text, names), end),
                map(_array, (call_seq, call_step, call_at_ms, call_n)),
                (count, name_idx_bytes, end, count, value_bytes, end),
            )
        )
    except (AttributeError, OverflowError, TypeError, UnicodeEncodeError) as error:
        raise SchemaError(
            f"metric batch of writer {writer!r} cannot be encoded: {error}"
        ) from error
    if len(body) + 5 > MESSAGE_BYTES_MAX:
        raise SchemaError(
            f"metric batch of writer {writer!r} has {len(body)} bytes, more than a message of "
            f"{MESSAGE_BYTES_MAX} can hold; cut it into smaller batches"
        )
    return body


def _array(numbers: Sequence[int]) -> bytes:
    if not numbers:
        return b"\x00"
    return b"".join((encode_long(len(numbers)), encode_longs(numbers), b"\x00"))


def _check_shapes(
    *,
    calls: tuple[int, ...],
    call_n: Sequence[int],
    points: int,
    indexes: int,
    value_bytes: int,
) -> None:
    if len(set(calls)) != 1:
        raise SchemaError(f"the call_ arrays of a metric batch have different lengths: {calls}")
    if call_n and min(call_n) < 0:
        raise SchemaError("call_n of a metric batch is negative")
    total = sum(call_n)
    if not (total == points == indexes and value_bytes == 8 * points):
        raise SchemaError(
            f"a metric batch of {points} points has {total} by call_n, {indexes} indexes and "
            f"{value_bytes} bytes of values"
        )
