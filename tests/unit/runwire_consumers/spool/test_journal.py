"""The intent journal: torn anywhere, flipped anywhere, compacted, lost, or held by another."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire_consumers.core.errors import AlreadyRunning
from runwire_consumers.spool import journal as journal_module
from runwire_consumers.spool.journal import JOURNAL_FILE, CutRange, Intent, IntentJournal

CUTS = [
    CutRange("folder-a", "aa", "metric", 0, 9, 0),
    CutRange("folder-b", "bb", "lifecycle", 3, 4, 0),
]


def open_journal(folder: Path) -> IntentJournal:
    return IntentJournal(folder)


def write_two_batches(folder: Path) -> tuple[Intent, Intent]:
    """A journal with one done batch and one open intent."""
    journal = open_journal(folder)
    first = journal.intend(100, CUTS)
    journal.done(first)
    second = journal.intend(200, CUTS[:1])
    journal.close()
    return first, second


def test_open_intent_comes_back_whole(tmp_path: Path) -> None:
    """Token, stamp and every cut are the same in the next process."""
    first, second = write_two_batches(tmp_path)
    journal = open_journal(tmp_path)
    assert journal.pending == second
    assert journal.notices == []
    assert first.token.partition(":")[0] == second.token.partition(":")[0] == journal.worker_id
    journal.done(second)
    journal.close()
    journal = open_journal(tmp_path)
    assert journal.pending is None
    assert journal.intend(1, CUTS).token not in (first.token, second.token)
    journal.close()


def test_intent_torn_at_every_byte_never_counted(tmp_path: Path) -> None:
    """Whichever part of the last intent reached the disk, the journal is the one before it."""
    write_two_batches(tmp_path)
    path = tmp_path / JOURNAL_FILE
    data = path.read_bytes()
    begin = data.rindex(b"\n", 0, -1) + 1
    for length in range(begin, len(data) - 1):
        path.write_bytes(data[:length])
        journal = open_journal(tmp_path)
        assert journal.pending is None
        assert len(journal.notices) == (1 if length > begin else 0)
        assert "torn" in "".join(journal.notices) or length == begin
        next_token = journal.intend(1, CUTS).token
        journal.close()
        assert next_token == f"{journal.worker_id}:2"  # never used: the torn intent did not return


def test_intent_that_misses_its_newline_still_counts(tmp_path: Path) -> None:
    """It may have been inserted, and inserting it again under its token is harmless."""
    _, second = write_two_batches(tmp_path)
    path = tmp_path / JOURNAL_FILE
    path.write_bytes(path.read_bytes()[:-1])
    journal = open_journal(tmp_path)
    assert journal.pending == second
    journal.close()


def test_flipped_bit_is_reported_and_tokens_are_never_reused(tmp_path: Path) -> None:
    """Any single flipped bit: an intact intent is honoured, else none; a new worker id follows."""
    first, second = write_two_batches(tmp_path)
    path = tmp_path / JOURNAL_FILE
    data = path.read_bytes()
    old_id = first.token.partition(":")[0]
    last_line = data.rindex(b"\n", 0, -1) + 1
    for position in range(0, len(data) - 1, 3):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(bytes(damaged))
        journal = open_journal(tmp_path)
        assert len(journal.notices) == 1
        assert "damaged" in journal.notices[0]
        assert journal.worker_id != old_id
        # The second intent's own line or the newline before it: then it cannot be known.
        expected = second if position < last_line - 1 else None
        assert journal.pending == expected or (position == last_line - 1)
        assert not journal.intend(1, CUTS).token.startswith(old_id)
        journal.close()
        assert list(tmp_path.glob("*.damaged-*")), "the damaged file is kept for a person"
        for kept in tmp_path.glob("*.damaged-*"):
            kept.unlink()


def test_lost_journal_is_reported_and_begins_a_new_id(tmp_path: Path) -> None:
    """Without the file a new id begins, since old batch numbers are unknown."""
    write_two_batches(tmp_path)
    old = open_journal(tmp_path)
    old.close()
    (tmp_path / JOURNAL_FILE).unlink()
    journal = open_journal(tmp_path)
    assert "is gone" in journal.notices[0]
    assert journal.pending is None
    assert journal.worker_id != old.worker_id
    journal.close()


def test_compaction_keeps_the_file_small_and_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After hundreds of batches the file is small, and numbers continue where they were."""
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 2000)
    journal = open_journal(tmp_path)
    for _ in range(200):
        intent = journal.intend(1, CUTS)
        journal.done(intent)
        assert (tmp_path / JOURNAL_FILE).stat().st_size < 2300
    last = journal.intend(2, CUTS)
    journal.close()
    assert last.number == 201
    again = open_journal(tmp_path)
    assert again.pending == last
    again.close()


def test_second_worker_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    """The error names the holder's pid; once that one has closed, the next may open it."""
    journal = open_journal(tmp_path)
    with pytest.raises(AlreadyRunning, match=r"another worker .* already reads this folder"):
        open_journal(tmp_path)
    journal.close()
    open_journal(tmp_path).close()
