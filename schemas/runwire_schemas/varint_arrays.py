"""Variable-length integers of Avro by numpy: one from each of many places, or many in a row."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from runwire_schemas.varint import VARINT_BYTES_MAX

Octets: TypeAlias = npt.NDArray[np.uint8]
Int64s: TypeAlias = npt.NDArray[np.int64]
_Raw: TypeAlias = npt.NDArray[np.uint64]
_Index: TypeAlias = npt.NDArray[Any]


def read_each(octets: Octets, at: Int64s) -> tuple[Int64s, Int64s]:
    """Return the integers at each of the places, and the places after them.

    After one that is too long the place is beyond the octets. The octets end with at least
    VARINT_BYTES_MAX zeros behind the last place.
    Shapes: at, both results [places].
    """
    octet = octets[at]
    raw = (octet & np.uint8(127)).astype(np.uint64)
    after = at + 1
    more = np.flatnonzero(octet > 127)
    shift = 7
    while len(more):
        octet = octets[after[more]]
        after[more] += 1
        if shift == 7 * (VARINT_BYTES_MAX - 1):
            after[more[octet > 1]] = len(octets)  # more than 64 bits
            octet = np.minimum(octet, 1)
        raw[more] |= (octet & np.uint8(127)).astype(np.uint64) << np.uint64(shift)
        more = more[octet > 127]
        shift += 7
    return _signed(raw), after


def widths_at(octets: Octets, at: Int64s) -> Int64s:
    """Return the bytes of the integer at each place; one more than the longest where none ends.

    Shapes: at, result [places]; the octets end as for `read_each`.
    """
    widths = np.ones(len(at), np.int64)
    more = np.flatnonzero(octets[at] > 127)
    while len(more):
        octet = octets[at[more] + widths[more]]
        widths[more] += 1
        more = more[(octet > 127) & (widths[more] <= VARINT_BYTES_MAX)]
    return widths


def read_even(octets: Octets, width: int) -> Int64s | None:
    """Return the integers of `width` bytes each that fill the octets; None when they do not."""
    if width >= VARINT_BYTES_MAX or len(octets) % width:
        return None
    if width == 1:
        if octets.max(initial=0) > 127:
            return None
        small = (octets >> np.uint8(1)) ^ (np.uint8(0) - (octets & np.uint8(1)))
        return small.view(np.int8).astype(np.int64)
    rows = octets.reshape(-1, width)
    if rows[:, -1].max(initial=0) > 127 or rows[:, :-1].min(initial=255) < 128:
        return None
    groups = (rows & np.uint8(127)).astype(np.uint64)
    raw = groups[:, 0]
    for k in range(1, width):
        raw = raw | groups[:, k] << np.uint64(7 * k)
    return _signed(raw)


def ends_in(octets: Octets) -> _Index:
    """Return the places of the last bytes of integers. Shapes: [integers]."""
    return np.flatnonzero(octets < 128)


def read_uneven(octets: Octets, ends: _Index) -> tuple[Int64s, _Index]:
    """Return the integers that end at these places, and which of them are longer than 64 bits.

    Shapes: ends [integers], at least one, the last at the end of the octets; the second result
    holds indexes into the first.
    """
    starts = np.empty_like(ends)
    starts[0] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    lengths = ends - starts + 1
    bad = lengths > VARINT_BYTES_MAX
    bad |= (lengths == VARINT_BYTES_MAX) & (octets[ends] > 1)
    raw = (octets[starts] & np.uint8(127)).astype(np.uint64)
    for k in range(1, min(int(lengths.max()), VARINT_BYTES_MAX)):
        longer = np.flatnonzero(lengths > k)
        group = (octets[starts[longer] + k] & np.uint8(127)).astype(np.uint64)
        raw[longer] |= group << np.uint64(7 * k)
    return _signed(raw), np.flatnonzero(bad)


def _signed(raw: _Raw) -> Int64s:
    """Undo zigzag; 0 - 1 wraps to all ones, as the formula needs."""
    numbers = (raw >> np.uint64(1)) ^ (np.uint64(0) - (raw & np.uint64(1)))
    return numbers.view(np.int64)
