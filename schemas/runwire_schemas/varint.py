"""Variable-length integers of Avro: zigzag, then 7 bits per byte, low group first.

Standard library only, because trainers import it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from runwire_schemas.errors import DecodeError

VARINT_BYTES_MAX = 10
NEAR_MIN = 8  # from this many on the grouping of neighbours pays
# 14 bits at a time: one look-up per two bytes. _LAST ends an integer, _MORE is followed by more.
_LAST = tuple(
    bytes((pair,)) if pair < 128 else bytes((pair & 127 | 128, pair >> 7))
    for pair in range(1 << 14)
)
_MORE = tuple(bytes((pair & 127 | 128, pair >> 7 | 128)) for pair in range(1 << 14))


def encode_long(number: int) -> bytes:
    """Return the varint of a signed 64-bit integer. Raises: OverflowError when it is larger."""
    if 0 <= number < 8192:
        return _LAST[number << 1]
    return encode_longs((number,))


def encode_longs(numbers: Iterable[int]) -> bytes:
    """Return the varints of integers, one after the other. Raises: OverflowError."""
    parts: list[bytes] = []
    add = parts.append
    for number in numbers:
        rest = number << 1 if number >= 0 else ~number << 1 | 1
        if rest > 16383:
            if rest >> 64:
                raise OverflowError(f"{number} does not fit a signed 64-bit integer")
            while rest > 16383:
                add(_MORE[rest & 16383])
                rest >>= 14
        add(_LAST[rest])
    return b"".join(parts)


def encode_near_longs(numbers: Sequence[int]) -> bytes:
    """Return what `encode_longs` does, in less time where neighbours are close and ascend.

    Steps, calls and times do: neighbours then share all bytes but their first two.
    Raises: OverflowError.
    """
    if len(numbers) < NEAR_MIN or min(numbers) < 0:
        return encode_longs(numbers)
    zigzag = [number << 1 for number in numbers]
    highs = [number >> 14 for number in zigzag]
    if highs != sorted(highs):
        return encode_longs(numbers)
    if highs[-1] >> 50:
        raise OverflowError(f"{numbers[-1]} does not fit a signed 64-bit integer")
    parts: list[bytes] = []
    at = 0
    while at < len(highs):
        high = highs[at]
        end = bisect_right(highs, high, at)
        if high:
            ending = _unsigned(high)
            parts.append(ending.join([_MORE[number & 16383] for number in zigzag[at:end]]))
            parts.append(ending)
        else:
            parts += [_LAST[number] for number in zigzag[at:end]]
        at = end
    return b"".join(parts)


def _unsigned(number: int) -> bytes:
    parts: list[bytes] = []
    while number > 16383:
        parts.append(_MORE[number & 16383])
        number >>= 14
    return b"".join((*parts, _LAST[number]))


def encode_text(text: str) -> bytes:
    """Return an Avro string: its length, then UTF-8."""
    data = text.encode()
    return encode_long(len(data)) + data


def read_long(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the varint at position `at` and the position after it.

    Raises: DecodeError when it is cut off or longer than a 64-bit integer can be.
    """
    end = len(data)
    if 0 <= at < end:
        byte = data[at]
        if byte < 128:
            return (byte >> 1) ^ -(byte & 1), at + 1
    raw = shift = 0
    position = at
    while True:
        if position >= end:
            raise DecodeError(f"integer at byte {at} is cut off")
        byte = data[position]
        position += 1
        raw |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 63:
            raise DecodeError(f"integer at byte {at} is longer than 64 bits")
    if raw >> 64:
        raise DecodeError(f"integer at byte {at} is longer than 64 bits")
    return (raw >> 1) ^ -(raw & 1), position
