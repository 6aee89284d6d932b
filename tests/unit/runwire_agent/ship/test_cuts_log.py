"""The journal of cuts: what it keeps over torn writes, damage and compaction."""

from pathlib import Path

import pytest

from runwire_agent.ship.cuts_log import COMPACT_BYTES, JOURNAL_FILE, CutJournal, CutRange


def test_cuts_come_back_in_order(tmp_path: Path) -> None:
    journal = CutJournal(tmp_path)
    journal.add([CutRange(0, 9, 0), CutRange(10, 19, 1)])
    journal.add([CutRange(20, 29, 2)])
    journal.close()
    again = CutJournal(tmp_path)
    assert again.open_cuts(10) == [CutRange(10, 19, 1), CutRange(20, 29, 2)]
    assert again.next_batch_seq == 3
    assert again.notices == []
    again.close()


@pytest.mark.parametrize("cut_at", [1, 8, 12, 20])
def test_a_torn_line_never_counted(tmp_path: Path, cut_at: int) -> None:
    journal = CutJournal(tmp_path)
    journal.add([CutRange(0, 9, 0)])
    whole = (tmp_path / JOURNAL_FILE).read_bytes()
    journal.add([CutRange(10, 19, 1)])
    journal.close()
    torn = (tmp_path / JOURNAL_FILE).read_bytes()[: len(whole) + cut_at]
    (tmp_path / JOURNAL_FILE).write_bytes(torn.rstrip(b"\n"))
    again = CutJournal(tmp_path)
    assert again.open_cuts(0) == [CutRange(0, 9, 0)]
    again.add([CutRange(10, 14, 1)])
    again.close()
    assert CutJournal(tmp_path).open_cuts(0) == [CutRange(0, 9, 0), CutRange(10, 14, 1)]


def test_numbers_of_damaged_lines_never_come_back(tmp_path: Path) -> None:
    """A batch number that may have been sent must not get other content."""
    journal = CutJournal(tmp_path)
    journal.add(CutRange(10 * n, 10 * n + 9, n) for n in range(4))
    journal.close()
    data = bytearray((tmp_path / JOURNAL_FILE).read_bytes())
    data[-5] ^= 1
    (tmp_path / JOURNAL_FILE).write_bytes(data)
    again = CutJournal(tmp_path)
    assert len(again.open_cuts(0)) == 3
    assert again.next_batch_seq >= 4
    assert "damaged" in again.notices[0]
    again.close()


def test_halves_replace_the_cut_they_came_from(tmp_path: Path) -> None:
    journal = CutJournal(tmp_path)
    journal.add([CutRange(0, 9, 0), CutRange(10, 19, 1)])
    journal.split(CutRange(0, 9, 0))
    journal.close()
    again = CutJournal(tmp_path)
    assert again.open_cuts(0) == [CutRange(0, 4, 2), CutRange(5, 9, 3), CutRange(10, 19, 1)]
    again.close()


def test_it_stays_small(tmp_path: Path) -> None:
    """Only what is not acknowledged is kept, and the next number."""
    journal = CutJournal(tmp_path)
    for n in range(5000):
        journal._write([CutRange(n, n, n)])
        journal.forget(n)
    journal.close()
    assert (tmp_path / JOURNAL_FILE).stat().st_size < COMPACT_BYTES * 2
    again = CutJournal(tmp_path)
    assert again.next_batch_seq == 5000
    assert again.open_cuts(0)[-1] == CutRange(4999, 4999, 4999)
    again.close()
