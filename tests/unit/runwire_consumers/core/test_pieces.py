"""Pieces of a batch: a partition of its places that only cuts refine, and its text."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from runwire_consumers.core.pieces import WHOLE, Pieces

TABLE = "metrics"
PLACES = 300


def ranges(pieces: Pieces) -> list[tuple[int, int]]:
    """The ranges that hold the places, in their order."""
    found: list[tuple[int, int]] = []
    for place in range(PLACES):
        bounds = pieces.range_of(TABLE, place)
        assert bounds is not None
        assert bounds[0] <= place < bounds[1]
        if not found or found[-1] != bounds:
            found.append(bounds)
    return found


def test_random_cuts_keep_earlier_ranges_and_partition_the_places(seed: int) -> None:
    """After any cuts each place has one range, ranges do not overlap, and the text is complete."""
    for case in range(200):
        rng = random.Random(f"{seed} {case}")
        pieces = WHOLE.cut(TABLE, 0, rng.randint(1, PLACES))
        for _ in range(rng.randint(0, 6)):
            before = ranges(pieces)
            first, end = rng.choice(before)
            size = max(1, (end - first) // rng.randint(2, 9))
            is_suffix = rng.random() < 0.5
            pieces = pieces.cut(TABLE, first, size, end=None if is_suffix else end)
            after = ranges(pieces)
            assert [b for b in before if b[1] <= first] == [b for b in after if b[1] <= first]
            if not is_suffix:
                assert [b for b in before if b[0] >= end] == [b for b in after if b[0] >= end]
            assert after[0][0] == 0
            assert all(a[1] == b[0] for a, b in pairwise(after))
        assert Pieces.parse(str(pieces)) == pieces


def test_table_without_a_cut_is_written_whole() -> None:
    """A cut of one table changes no other; no cut at all is the empty text."""
    pieces = WHOLE.cut("logs", 0, 5)
    assert pieces.range_of(TABLE, 3) is None
    assert pieces.range_of("logs", 7) == (5, 10)
    assert str(WHOLE) == ""
    assert Pieces.parse("") == WHOLE


@pytest.mark.parametrize("text", ["metrics", "metrics:1/0", "metrics:5/2", "m:0/2,0/1", "x y", ";"])
def test_text_that_describes_no_pieces_is_refused(text: str) -> None:
    """A damaged or foreign text is an error and never a guess."""
    with pytest.raises(ValueError, match="describes no pieces"):
        Pieces.parse(text)
