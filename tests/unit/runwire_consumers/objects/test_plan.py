"""Plans of ranges with any bounds, order and repeats: the same file, or none."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_consumers.objects.plan import assemble, cut, stretches
from runwire_store.pieces import RANGE_PIECES, RANGE_PIECES_MIN, StagedRange

SHA256 = "ab" * 32


def digests(first: int, end: int) -> bytes:
    return b"".join(hashlib.sha256(b"%d" % index).digest() for index in range(first, end))


def staged(first: int, end: int) -> StagedRange:
    return StagedRange.of(SHA256, first, digests(first, end))


@st.composite
def bounds(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """The number of pieces, and bounds of ranges that need not cover them."""
    count = draw(st.integers(1, 80))
    one = st.tuples(st.integers(0, count - 1), st.integers(1, 40))
    found = draw(st.lists(one, max_size=30))
    return count, [(first, min(count, first + length)) for first, length in found]


@given(bounds())
def test_a_file_is_assembled_exactly_when_all_pieces_are_there(
    drawn: tuple[int, list[tuple[int, int]]],
) -> None:
    """Any ranges that cover all pieces make the file; others make none."""
    count, found = drawn
    there = {index for first, end in found for index in range(first, end)}
    parts = assemble([staged(first, end) for first, end in found], digests(0, count))
    if there != set(range(count)):
        assert parts is None
        return
    assert parts is not None
    at = 0
    for part in parts:
        begin = at
        for one in part:
            assert one.staged.first <= one.first == at < one.end <= one.staged.end
            at = one.end
        assert at == count or at - begin >= RANGE_PIECES_MIN
    assert at == count


@given(st.sets(st.integers(0, 200)))
def test_cut_keeps_every_piece_in_ranges_of_full_length(indexes: set[int]) -> None:
    """A cut keeps every piece, and only a short stretch gives a short range."""
    found = stretches(indexes)
    assert [index for stretch in found for index in stretch] == sorted(indexes)
    assert all(a.stop < b.start for a, b in pairwise(found))
    for stretch in found:
        ranges = cut(stretch)
        assert [index for one in ranges for index in one] == list(stretch)
        assert all(len(one) >= min(len(stretch), RANGE_PIECES) for one in ranges)
        assert all(len(one) < 2 * RANGE_PIECES for one in ranges)


def test_whole_ranges_are_preferred_to_slices() -> None:
    """A sequence of whole ranges is joined without copying."""
    whole = [staged(0, 16), staged(16, 32), staged(32, 40)]
    others = [staged(0, 3), staged(3, 20), staged(10, 39), staged(39, 40)]
    parts = assemble([*others, *whole], digests(0, 40))
    assert parts is not None
    assert [one.staged for part in parts for one in part] == whole
    assert all(part[0].is_whole for part in parts)


def test_ranges_of_other_content_are_ignored() -> None:
    """A range whose digests do not match the file is not used."""
    other = StagedRange.of(SHA256, 0, digests(100, 116))
    beyond = StagedRange.of(SHA256, 10, digests(10, 26))
    empty = StagedRange.of(SHA256, 0, b"")
    assert assemble([other, beyond, empty], digests(0, 16)) is None
    parts = assemble([other, beyond, empty, staged(0, 16)], digests(0, 16))
    assert parts is not None
    assert [one.staged for part in parts for one in part] == [staged(0, 16)]


@pytest.mark.parametrize("count", [1, 9, 15, 16, 17, 31])
def test_short_stretch_is_cut_to_one_range(count: int) -> None:
    """Fewer than two ranges' worth of pieces stay together."""
    assert cut(range(5, 5 + count)) == [range(5, 5 + count)]
