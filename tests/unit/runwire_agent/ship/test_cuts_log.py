"""The log of cuts: its content after torn writes, damage and compaction."""

from pathlib import Path

import pytest

from runwire_agent.ship.cuts_log import COMPACT_BYTES, CUTS_LOG_FILE, BatchRange, CutsLog


def write_cuts(folder: Path, count: int) -> bytes:
    """A log of `count` cuts of ten records; returns the bytes of its file."""
    log = CutsLog(folder)
    log.add(BatchRange(10 * n, 10 * n + 9, n) for n in range(count))
    log.close()
    return (folder / CUTS_LOG_FILE).read_bytes()


def test_cuts_come_back_in_the_order_of_records(tmp_path: Path) -> None:
    """The next process sees every cut from its position on, and no number is free again."""
    log = CutsLog(tmp_path)
    log.add([BatchRange(0, 9, 0), BatchRange(10, 19, 1)])
    log.add([BatchRange(20, 29, 2)])
    log.close()
    again = CutsLog(tmp_path)
    assert again.open_cuts(10) == [BatchRange(10, 19, 1), BatchRange(20, 29, 2)]
    assert again.next_batch_seq == 3
    assert again.notices == []
    again.close()


@pytest.mark.parametrize("cut_at", range(1, 20))
def test_torn_line_never_counts_and_is_replaced(tmp_path: Path, cut_at: int) -> None:
    """Nothing was sent under a cut whose append did not return, at whatever byte it was torn."""
    whole = write_cuts(tmp_path, 1)
    log = CutsLog(tmp_path)
    log.add([BatchRange(10, 19, 1)])
    log.close()
    torn = (tmp_path / CUTS_LOG_FILE).read_bytes()[: len(whole) + cut_at]
    (tmp_path / CUTS_LOG_FILE).write_bytes(torn.rstrip(b"\n"))
    again = CutsLog(tmp_path)
    assert again.open_cuts(0) == [BatchRange(0, 9, 0)]
    assert again.notices == []
    again.add([BatchRange(10, 14, 1)])
    again.close()
    last = CutsLog(tmp_path)
    assert last.open_cuts(0) == [BatchRange(0, 9, 0), BatchRange(10, 14, 1)]
    last.close()


def test_numbers_of_damaged_lines_never_come_back(tmp_path: Path) -> None:
    """A batch number that may have been sent gets no other content, whichever bit is flipped.

    A flipped newline joins two lines: both numbers stay used.
    """
    data = write_cuts(tmp_path, 4)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        (tmp_path / CUTS_LOG_FILE).write_bytes(bytes(damaged))
        log = CutsLog(tmp_path)
        is_whole = position == len(data) - 1  # the last newline: its cut is read all the same
        assert len(log.open_cuts(0)) in ((4,) if is_whole else (2, 3))
        assert log.next_batch_seq >= 4
        assert ["damaged" in notice for notice in log.notices] == ([] if is_whole else [True])
        log.close()
        again = CutsLog(tmp_path)
        assert again.notices == []
        assert again.next_batch_seq == log.next_batch_seq
        again.close()


def test_line_that_is_no_cut_counts_as_damage(tmp_path: Path) -> None:
    """A CRC holds over anything; only a cut or a next number is taken."""
    write_cuts(tmp_path, 2)
    with (tmp_path / CUTS_LOG_FILE).open("ab") as file:
        file.write(b"088b50bf [1,2]\n")
    log = CutsLog(tmp_path)
    assert len(log.open_cuts(0)) == 2
    assert log.next_batch_seq >= 3
    assert len(log.notices) == 1
    log.close()


def test_halves_replace_the_cut_they_came_from(tmp_path: Path) -> None:
    """A batch refused as too large was never stored: its number does not come back."""
    log = CutsLog(tmp_path)
    log.add([BatchRange(0, 9, 0), BatchRange(10, 19, 1)])
    log.split(BatchRange(0, 9, 0))
    log.close()
    again = CutsLog(tmp_path)
    assert again.open_cuts(0) == [
        BatchRange(0, 4, 2),
        BatchRange(5, 9, 3),
        BatchRange(10, 19, 1),
    ]
    again.close()


def test_log_stays_small_while_cuts_are_acknowledged(tmp_path: Path) -> None:
    """Compaction keeps the cuts without an acknowledgement, and the next number."""
    log = CutsLog(tmp_path)
    for first in range(0, 5000, 50):
        log.add(BatchRange(n, n, n) for n in range(first, first + 50))
        log.forget(first + 49)
    log.close()
    assert (tmp_path / CUTS_LOG_FILE).stat().st_size < COMPACT_BYTES * 2
    again = CutsLog(tmp_path)
    assert again.next_batch_seq == 5000
    assert again.open_cuts(0)[-1] == BatchRange(4999, 4999, 4999)
    again.close()
