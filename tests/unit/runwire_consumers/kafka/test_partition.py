"""Partitions: a range to repeat is gathered completely and becomes pending once."""

from __future__ import annotations

import pytest
from confluent_kafka import OFFSET_BEGINNING

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


def test_range_to_repeat_is_pending_once_when_complete() -> None:
    """A complete range is pending once; later records wait for its commit."""
    partition = repeating(4, 6)
    assert [partition.take(at(offset)) for offset in (4, 5)] == [[], []]
    assert handed_out(partition) is None
    assert [partition.take(at(offset)) for offset in (6, 7)] == [[], []]
    assert handed_out(partition) == [4, 5, 6]
    assert handed_out(partition) is None
    assert [one.offset for one in partition.committed()] == [7]
    assert [one.offset for one in partition.take(at(8))] == [8]


def test_range_to_repeat_ends_at_a_gap_in_the_offsets() -> None:
    """Offsets of transaction markers and compacted records never arrive."""
    partition = repeating(4, 6)
    assert partition.take(at(4)) == []
    assert partition.take(at(9)) == []
    assert handed_out(partition) == [4]
    assert partition.behind(Span(4, 6)) == 7
    assert [one.offset for one in partition.committed()] == [9]


@pytest.mark.parametrize(
    ("kind", "first", "lines"), [("run", 7, 1), ("run", 0, 0), ("deadletter", 7, 0)]
)
def test_records_that_expired_before_the_first_read_are_reported_once(
    kind: str, first: int, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A partition without an offset says how many records are gone; a compacted topic does not."""
    partition = Partition("t", 0, "id", kind, OFFSET_BEGINNING)
    for offset in (first, first + 1):
        assert [one.offset for one in partition.take(at(offset))] == [offset]
    found = [text for text in caplog.messages if "expired before this group read any" in text]
    assert len(found) == lines
    assert all(f"the {first} records" in text for text in found)


def test_cut_range_is_complete_with_the_records_left() -> None:
    """Records at the offsets of lost ones are behind the cut range, and so is the commit."""
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


def test_log_end_cuts_only_an_unfinished_range() -> None:
    """A log end behind the range, after its completion or without any range cuts nothing."""
    partition = repeating(4, 6)
    assert not partition.misses_records(7)
    for offset in (4, 5, 6):
        partition.take(at(offset))
    assert not partition.misses_records(5)
    assert not Partition("t", 0, "id", "run", 4).misses_records(4)


def test_passed_over_message_is_no_lag_and_moves_nothing_back() -> None:
    """A removed letter counts as read; one that was fetched before a seek changes nothing."""
    partition = Partition("t", 0, "id", "deadletter", OFFSET_BEGINNING)
    partition.pass_over(7)
    partition.pass_over(3)
    assert partition.next_offset == 8
    assert [one.offset for one in partition.take(at(8))] == [8]
