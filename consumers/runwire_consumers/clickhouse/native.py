"""ClickHouse `Native` blocks from columns, without a per-value Python loop for numbers.

Layout, all little-endian: `varuint(columns) varuint(rows)`, then per column its name, its type
and all its values. A block of any size becomes one part, so its insert is atomic.
Source: pipeline notes, section "Native block"; ClickHouse src/Formats/NativeReader.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Data: TypeAlias = "bytes | memoryview"

# SerializationLowCardinality: keys version, and the flag "this block has its dictionary".
_LC_VERSION = np.array([1], "<u8").tobytes()
_LC_HAS_KEYS = 1 << 9
_DTYPES = {
    "Int32": "<i4",
    "Int64": "<i8",
    "UInt8": "u1",
    "UInt64": "<u8",
    "Float64": "<f8",
    "Bool": "u1",
    "DateTime64(3)": "<i8",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One encoded column: its type as ClickHouse writes it, and its bytes in pieces."""

    name: str
    type: str
    rows: int
    data: tuple[Data, ...]


def block(columns: Sequence[Column]) -> bytes:
    """Return the body of one `INSERT … FORMAT Native`.

    Shapes: every column has the same number of rows.
    Raises: ValueError when the columns differ in length.
    """
    rows = columns[0].rows
    pieces: list[Data] = [varuint(len(columns)), varuint(rows)]
    for column in columns:
        if column.rows != rows:
            raise ValueError(f"column {column.name} has {column.rows} rows, not {rows}")
        pieces += [_string(column.name), _string(column.type), *column.data]
    return b"".join(pieces)


def numbers(name: str, kind: str, values: Array | Sequence[int] | Sequence[float]) -> Column:
    """Encode fixed-width values.

    Units: DateTime64(3) takes milliseconds since the epoch.
    """
    array = np.ascontiguousarray(values, _DTYPES[kind])
    return Column(name, kind, len(array), (array.tobytes(),))


def nullable_numbers(name: str, kind: str, values: Sequence[int | None]) -> Column:
    """Encode fixed-width values, None as null."""
    nulls = np.fromiter((value is None for value in values), "u1", len(values))
    filled = numbers(name, kind, [value or 0 for value in values])
    return Column(name, f"Nullable({kind})", len(values), (nulls.tobytes(), *filled.data))


def nullable_floats(name: str, values: Array) -> Column:
    """Encode Float64 values, NaN as null."""
    filled = numbers(name, "Float64", values)
    nulls = np.isnan(values).astype("u1").tobytes()
    return Column(name, "Nullable(Float64)", len(values), (nulls, *filled.data))


def tuples(name: str, elements: Sequence[Column]) -> Column:
    """Encode named tuples from one column per element.

    Shapes: every element has the same number of rows.
    """
    kind = ", ".join(f"{element.name} {element.type}" for element in elements)
    data = tuple(piece for element in elements for piece in element.data)
    return Column(name, f"Tuple({kind})", elements[0].rows, data)


def strings(name: str, values: Sequence[str | bytes]) -> Column:
    """Encode text or bytes of any length."""
    return Column(name, "String", len(values), (_strings(values),))


def nullable_strings(name: str, values: Sequence[str | None]) -> Column:
    """Encode text, None as null."""
    nulls = np.fromiter((value is None for value in values), "u1", len(values))
    texts = _strings([value or "" for value in values])
    return Column(name, "Nullable(String)", len(values), (nulls.tobytes(), texts))


def low_cardinality(name: str, dictionary: Sequence[str], index: Array) -> Column:
    """Encode text given as positions in a dictionary.

    Shapes: dictionary [distinct texts], index [rows].
    """
    rows, size = len(index), len(dictionary)
    kind = 0 if size <= 1 << 8 else 1 if size <= 1 << 16 else 2
    head = np.array([kind | _LC_HAS_KEYS, size], "<u8").tobytes()
    positions = np.ascontiguousarray(index, ("<u1", "<u2", "<u4")[kind]).tobytes()
    count = np.array([rows], "<u8").tobytes()
    data = (_LC_VERSION, head, _strings(dictionary), count, positions) if rows else ()
    return Column(name, "LowCardinality(String)", rows, data)


def string_maps(name: str, values: Sequence[Mapping[str, str]]) -> Column:
    """Encode Map(String, String)."""
    texts = _strings([text for value in values for text in value.values()])
    return _maps(name, "String", values, texts)


def count_maps(name: str, values: Sequence[Mapping[str, int]]) -> Column:
    """Encode Map(String, Int64)."""
    counts = np.array([count for value in values for count in value.values()], "<i8")
    return _maps(name, "Int64", values, counts.tobytes())


def float_maps(name: str, values: Sequence[Mapping[str, float]]) -> Column:
    """Encode Map(String, Float64)."""
    doubles = np.array([number for value in values for number in value.values()], "<f8")
    return _maps(name, "Float64", values, doubles.tobytes())


def string_arrays(name: str, values: Sequence[Sequence[str]]) -> Column:
    """Encode Array(String)."""
    ends = np.cumsum([len(value) for value in values], dtype="<u8")
    texts = _strings([text for value in values for text in value])
    return Column(name, "Array(String)", len(values), (ends.tobytes(), texts))


def varuint(value: int) -> bytes:
    """Encode unsigned LEB128: 7 bits a byte, low group first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _maps(name: str, kind: str, values: Sequence[Mapping[str, object]], data: bytes) -> Column:
    ends = np.cumsum([len(value) for value in values], dtype="<u8")
    keys = _strings([key for value in values for key in value])
    return Column(name, f"Map(String, {kind})", len(values), (ends.tobytes(), keys, data))


def _string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return varuint(len(raw)) + raw


def _strings(values: Sequence[str | bytes]) -> bytes:
    return b"".join(map(_string, values))
