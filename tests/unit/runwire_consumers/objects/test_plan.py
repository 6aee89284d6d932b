"""Runs of any bounds, in any order, with repeats: the same file, or none."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_consumers.objects.plan import assemble, cut, stretches
from runwire_store.pieces import RUN_PIECES, RUN_PIECES_MIN, StagedRun

SHA256 = "ab" * 32


def digests(first: int, end: int) -> bytes:
    return b"".join(hashlib.sha256(b"%d" % index).digest() for index in range(first, end))


def run(first: int, end: int) -> StagedRun:
    return StagedRun.of(SHA256, first, digests(first, end))


@st.composite
def bounds(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """The number of pieces, and bounds of runs that need not cover them."""
    count = draw(st.integers(1, 80))
    one = st.tuples(st.integers(0, count - 1), st.integers(1, 40))
    found = draw(st.lists(one, max_size=30))
    return count, [(first, min(count, first + length)) for first, length in found]


@given(bounds())
def test_a_file_is_assembled_exactly_when_all_pieces_are_there(
    drawn: tuple[int, list[tuple[int, int]]],
) -> None:
    count, found = drawn
    there = {index for first, end in found for index in range(first, end)}
    parts = assemble([run(first, end) for first, end in found], digests(0, count))
    if there != set(range(count)):
        assert parts is None
        return
    assert parts is not None
    at = 0
    for part in parts:
        begin = at
        for one in part:
            assert one.run.first <= one.first == at < one.end <= one.run.end
            at = one.end
        assert at == count or at - begin >= RUN_PIECES_MIN
    assert at == count


@given(st.sets(st.integers(0, 200)))
def test_cutting_loses_and_shortens_nothing(indexes: set[int]) -> None:
    found = stretches(indexes)
    assert [index for stretch in found for index in stretch] == sorted(indexes)
    assert all(a.stop < b.start for a, b in pairwise(found))
    for stretch in found:
        runs = cut(stretch)
        assert [index for one in runs for index in one] == list(stretch)
        assert all(len(one) >= min(len(stretch), RUN_PIECES) for one in runs)
        assert all(len(one) < 2 * RUN_PIECES for one in runs)


def test_whole_runs_are_preferred_to_what_must_be_put_together() -> None:
    whole = [run(0, 16), run(16, 32), run(32, 40)]
    others = [run(0, 3), run(3, 20), run(10, 39), run(39, 40)]
    parts = assemble([*others, *whole], digests(0, 40))
    assert parts is not None
    assert [one.run for part in parts for one in part] == whole
    assert all(part[0].is_whole for part in parts)


def test_runs_of_other_content_are_left_out() -> None:
    other = StagedRun.of(SHA256, 0, digests(100, 116))
    beyond = StagedRun.of(SHA256, 10, digests(10, 26))
    empty = StagedRun.of(SHA256, 0, b"")
    assert assemble([other, beyond, empty], digests(0, 16)) is None
    parts = assemble([other, beyond, empty, run(0, 16)], digests(0, 16))
    assert parts is not None
    assert [one.run for part in parts for one in part] == [run(0, 16)]


@pytest.mark.parametrize("count", [1, 9, 15, 16, 17, 31])
def test_a_short_stretch_is_one_run(count: int) -> None:
    assert cut(range(5, 5 + count)) == [range(5, 5 + count)]
