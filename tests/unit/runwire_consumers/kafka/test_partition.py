"""Bookkeeping of one partition: a range to repeat is gathered whole, and then handed out once."""

from __future__ import annotations

from runwire_consumers.core.source import Record, Span
from runwire_consumers.kafka.partition import Partition
from support.builders import record, run_event


def at(offset: int) -> Record:
    return record(run_event(seq=offset), offset)


def repeating(first: int, last: int) -> Partition:
    return Partition("t", 0, "id", "run", first, Span(first, last))


def handed_out(partition: Partition) -> list[int] | None:
    pending = partition.pending()
    return pending and [one.offset for one in pending.records]


def test_a_whole_range_is_handed_out_once() -> None:
    partition = repeating(4, 6)
    assert [partition.take(at(offset)) for offset in (4, 5)] == [[], []]
    assert handed_out(partition) is None
    assert [partition.take(at(offset)) for offset in (6, 7)] == [[], []]
    assert handed_out(partition) == [4, 5, 6]
    assert handed_out(partition) is None
    assert [one.offset for one in partition.committed()] == [7]
    assert [one.offset for one in partition.take(at(8))] == [8]


def test_a_gap_ends_a_range() -> None:
    """Offsets of transaction markers and of compacted records are never seen."""
    partition = repeating(4, 6)
    assert partition.take(at(4)) == []
    assert partition.take(at(9)) == []
    assert handed_out(partition) == [4]
    assert partition.behind(Span(4, 6)) == 7
    assert [one.offset for one in partition.committed()] == [9]


def test_what_a_cut_range_has_left_is_all_of_it() -> None:
    """Records that take the offsets of the lost ones are behind it, and so is the commit."""
    partition = repeating(4, 9)
    partition.take(at(4))
    assert partition.misses_records(5)
    partition.cut(5)
    assert handed_out(partition) == [4]
    assert partition.take(at(5)) == []
    assert partition.is_complete
    assert handed_out(partition) is None
    assert partition.behind(Span(4, 9)) == 5
    assert [one.offset for one in partition.committed()] == [5]
    assert partition.behind(Span(5, 12)) == 13


def test_only_an_end_within_an_unfinished_range_cuts_it() -> None:
    partition = repeating(4, 6)
    assert not partition.misses_records(7)
    for offset in (4, 5, 6):
        partition.take(at(offset))
    assert not partition.misses_records(5)
    assert not Partition("t", 0, "id", "run", 4).misses_records(4)
