"""ClickHouse `Native` blocks from columns, without a per-value Python loop for numbers.

Layout, all little-endian: `varuint(columns) varuint(rows)`, then per column its name, its type
and all its values. A block of any size becomes one part, so its insert is atomic.
Source: pipeline notes, section "Native block"; ClickHouse src/Formats/NativeReader.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Data: TypeAlias = "bytes | memoryview"

# SerializationLowCardinality: keys version, and the flag "this block has its dictionary".
_LC_VERSION = np.array([1], "<u8").tobytes()
_LC_HAS_KEYS = 1 << 9
# Smaller pieces are joined before they are sent: a call of the socket costs as much as this copy.
SENT_TOGETHER_BYTES = 64 * 1024
IN_PIECES_BYTES = 1024 * 1024
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


class Block:
    """Body of an insert in pieces, which is sent without a copy of the whole, also again."""

    def __init__(self, pieces: Iterable[Data]) -> None:
        self._pieces = list(pieces)
        self._size = sum(map(len, self._pieces))

    def __len__(self) -> int:
        """Return the number of bytes."""
        return self._size

    def __bytes__(self) -> bytes:
        """Return the whole in one piece."""
        return b"".join(self._pieces)

    def __iter__(self) -> Iterator[Data]:
        """Yield pieces that are worth a call of the socket each."""
        small: list[Data] = []
        for piece in self._pieces:
            if len(piece) < SENT_TOGETHER_BYTES:
                small.append(piece)
                continue
            if small:
                yield b"".join(small)
                small = []
            yield piece
        if small:
            yield b"".join(small)


def block(columns: Sequence[Column]) -> bytes:
    """Return the body of one `INSERT … FORMAT Native`.

    Shapes: every column has the same number of rows.
    Raises: ValueError when the columns differ in length.
    """
    return b"".join(_pieces(columns))


def block_in_pieces(columns: Sequence[Column]) -> Block:
    """Return the body of one `INSERT … FORMAT Native` that may be large.

    The arrays of the columns must not change any more.
    Shapes, Raises: as `block`.
    """
    return Block(_pieces(columns))


def to_send(body: bytes | Block) -> tuple[Any, dict[str, str]]:
    """Return what the client sends of a body, and the header of its length.

    A small body goes as bytes: the client then sends it again by itself when a connection that it
    kept open proves to be closed.
    """
    if isinstance(body, bytes) or len(body) < IN_PIECES_BYTES:
        return bytes(body), {}
    return body, {"Content-Length": str(len(body))}


def _pieces(columns: Sequence[Column]) -> list[Data]:
    rows = columns[0].rows
    pieces: list[Data] = [varuint(len(columns)), varuint(rows)]
    for column in columns:
        if column.rows != rows:
            raise ValueError(f"column {column.name} has {column.rows} rows, not {rows}")
        pieces += [_string(column.name), _string(column.type), *column.data]
    return pieces


def numbers(name: str, kind: str, values: Array | Sequence[int] | Sequence[float]) -> Column:
    """Encode fixed-width values.

    Units: DateTime64(3) takes milliseconds since the epoch.
    """
    array = np.ascontiguousarray(values, _DTYPES[kind])
    return Column(name, kind, len(array), (_octets(array),))


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
    return _low_cardinality(strings(name, dictionary), index)


def number_dictionary(name: str, kind: str, dictionary: Sequence[int], index: Array) -> Column:
    """Encode fixed-width values given as positions in a dictionary: a byte or two for each row.

    The engine casts it to the type of a plain column; the insert must allow
    `allow_suspicious_low_cardinality_types`.
    Shapes: dictionary [distinct values], index [rows].
    """
    return _low_cardinality(numbers(name, kind, dictionary), index)


def position_type(size: int) -> str:
    """Return the type of positions in a dictionary of this size."""
    return ("<u1", "<u2", "<u4")[_position_kind(size)]


def _position_kind(size: int) -> int:
    return 0 if size <= 1 << 8 else 1 if size <= 1 << 16 else 2


def _low_cardinality(keys: Column, index: Array) -> Column:
    rows, size = len(index), keys.rows
    head = np.array([_position_kind(size) | _LC_HAS_KEYS, size], "<u8").tobytes()
    positions = _octets(np.ascontiguousarray(index, position_type(size)))
    count = np.array([rows], "<u8").tobytes()
    data = (_LC_VERSION, head, *keys.data, count, positions) if rows else ()
    return Column(keys.name, f"LowCardinality({keys.type})", rows, data)


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


def _octets(array: Array) -> Data:
    """Return the bytes of an array without a copy."""
    return array.data.cast("B") if len(array) else b""


def _string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return varuint(len(raw)) + raw


def _strings(values: Sequence[str | bytes]) -> bytes:
    return b"".join(map(_string, values))
