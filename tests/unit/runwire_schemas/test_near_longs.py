"""Varints of neighbours: the bytes of one at a time, for every kind of column."""

from __future__ import annotations

import random

import pytest

from runwire_schemas.varint import encode_long, encode_near_longs
from support.effort import examples


def column(chance: random.Random) -> list[int]:
    """A column of calls, steps or times, or of anything."""
    start = chance.choice((0, 5, 8190, 8192, 2**20 - 40, 1_700_000_000_000, 2**62, 2**63 - 5000))
    gap = chance.choice((0, 1, 100, 20_000))
    length = chance.choice((0, 1, 7, 8, 9, 60))
    ascending = [min(start + n * gap, 2**63 - 1) for n in range(length)]
    if chance.random() < 0.3:
        chance.shuffle(ascending)
    if chance.random() < 0.2 and ascending:
        ascending[chance.randrange(length)] = chance.choice((-1, -(2**63), 2**63 - 1))
    return ascending


def test_bytes_are_those_of_single_integers(seed: int) -> None:
    """Grouping changes nothing but the time."""
    chance = random.Random(seed)
    for _ in range(examples(5000)):
        numbers = column(chance)
        assert encode_near_longs(numbers) == b"".join(map(encode_long, numbers))


@pytest.mark.parametrize("last", [2**63, 2**70])
def test_integer_beyond_64_bits_is_refused(last: int) -> None:
    """As one at a time does."""
    with pytest.raises(OverflowError, match="does not fit"):
        encode_near_longs([*range(20), last])
