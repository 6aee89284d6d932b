"""The journal of cuts: its content after kills, damage, compaction and a change of readers."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from runwire_agent.ship.cut_journal import COMPACT_BYTES, CutJournal, read_cuts
from runwire_agent.ship.folder_cuts import CUTS_LOG_FILE, BatchRange, FolderCuts
from support.spools import meta

DESTINATION = "d1"


def folder_of(root: Path, name: str = "a") -> Path:
    folder = root / "spool" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def journal_of(root: Path) -> CutJournal:
    return CutJournal(root, DESTINATION)


def open_cuts(
    journal: CutJournal, folder: Path, *, position: int = 0, saved: int = 0
) -> FolderCuts:
    return journal.open(folder, meta(), position=position, saved_batch_seq=saved)


def known_cuts(folder: Path, *, position: int = 0, saved: int = 0) -> FolderCuts:
    root = folder.parent.parent
    return read_cuts(root, DESTINATION, folder, position=position, saved_batch_seq=saved)


def log_of(root: Path) -> Path:
    (path,) = (root / "spool" / ".cuts").glob("*.log")
    return path


def cuts(count: int) -> list[BatchRange]:
    return [BatchRange(10 * n, 10 * n + 9, n) for n in range(count)]


def killed_journal(root: Path, count: int, *, names: str = "a") -> None:
    """The journal of a process that was killed after `count` looks at each folder."""
    journal = journal_of(root)
    opened = [open_cuts(journal, folder_of(root, name)) for name in names]
    for cut in cuts(count):
        journal.add((folder, cut) for folder in opened)
    journal.abandon()


def test_next_process_takes_over_the_cuts_of_a_killed_one(tmp_path: Path) -> None:
    """It sees every cut from its position on, no number is free again, one file is left."""
    killed_journal(tmp_path, 3, names="ab")
    journal = journal_of(tmp_path)
    for name in "ab":
        again = open_cuts(journal, folder_of(tmp_path, name), position=10)
        assert again.open_cuts(10) == cuts(3)[1:]
        assert again.next_batch_seq == 3
    assert journal.notices == []
    log_of(tmp_path)
    journal.abandon()


def test_folder_is_found_in_the_journal_of_a_living_process(tmp_path: Path) -> None:
    """Whoever takes the reader lock, `runwire sync` beside an agent, knows what may be sent."""
    first, second = journal_of(tmp_path), journal_of(tmp_path)
    folder = folder_of(tmp_path)
    mine = open_cuts(first, folder)
    first.add((mine, cut) for cut in cuts(2))
    first.release(mine)
    theirs = open_cuts(second, folder)
    assert theirs.open_cuts(0) == cuts(2)
    second.add((theirs, half) for half in theirs.halves(cuts(2)[0]))
    second.release(theirs)
    again = open_cuts(first, folder)
    assert again.open_cuts(0) == [BatchRange(0, 4, 2), BatchRange(5, 9, 3), cuts(2)[1]]
    assert again.next_batch_seq == 4
    first.abandon()
    second.abandon()


def test_journal_without_open_cuts_leaves_no_file(tmp_path: Path) -> None:
    """The saved cursors cover everything: nothing has to be said to the next process."""
    journal = journal_of(tmp_path)
    mine = open_cuts(journal, folder_of(tmp_path))
    journal.add([(mine, cuts(1)[0])])
    journal.forget(mine, 10, 1)
    journal.release(mine)
    journal.close()
    assert list((tmp_path / "spool" / ".cuts").iterdir()) == []


@pytest.mark.parametrize("torn_at", range(1, 24, 3))
def test_torn_line_never_counts(tmp_path: Path, torn_at: int) -> None:
    """Nothing was sent under cuts whose append did not return, at whatever byte it was torn."""
    killed_journal(tmp_path, 1)
    whole = log_of(tmp_path).read_bytes()
    text = json.dumps([["a", 10, 19, 1]], separators=(",", ":")).encode()
    line = b"%08x %s\n" % (zlib.crc32(text), text)
    log_of(tmp_path).write_bytes(whole + line[:torn_at])
    journal = journal_of(tmp_path)
    again = open_cuts(journal, folder_of(tmp_path))
    assert again.open_cuts(0) == cuts(1)
    assert journal.notices == []
    journal.abandon()


def test_numbers_of_damaged_lines_never_come_back(tmp_path: Path, seed: int) -> None:
    """Whichever bit is flipped, and however often it is opened, each number is used once."""
    killed_journal(tmp_path, 4, names="ab")
    path = log_of(tmp_path)
    data = path.read_bytes()
    chance = random.Random(seed)
    for position in chance.sample(range(len(data) - 1), 40):
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        damaged = bytearray(data)
        damaged[position] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(damaged))
        for _ in range(2):  # the process that finds it, and the one after its kill
            journal = journal_of(tmp_path)
            for name in "ab":
                again = open_cuts(journal, folder_of(tmp_path, name))
                assert set(again.open_cuts(0)) <= set(cuts(4))
                assert again.next_batch_seq >= 4
            journal.abandon()


def test_saved_number_counts_where_all_lines_are_damaged(tmp_path: Path) -> None:
    """What damage may have swallowed comes after what the cursor knows."""
    killed_journal(tmp_path, 1)
    path = log_of(tmp_path)
    path.write_bytes(b"x" * 40 + b"\n")
    journal = journal_of(tmp_path)
    assert open_cuts(journal, folder_of(tmp_path), position=500, saved=50).next_batch_seq > 50
    assert len(journal.notices) == 1
    later = journal.open(
        folder_of(tmp_path, "b"),
        meta(started_at_ns=2**62),
        position=0,
        saved_batch_seq=0,
    )
    assert later.next_batch_seq == 0
    journal.abandon()


def test_log_of_an_older_agent_is_taken_over(tmp_path: Path) -> None:
    """One file per folder before: its cuts and its next number are kept, then it goes."""
    folder = folder_of(tmp_path)
    lines = [[7], [0, 9, 3], [10, 19, 4]]
    texts = [json.dumps(fact, separators=(",", ":")).encode() for fact in lines]
    legacy = folder / CUTS_LOG_FILE
    legacy.write_bytes(b"".join(b"%08x %s\n" % (zlib.crc32(text), text) for text in texts))
    kept = [BatchRange(0, 9, 3), BatchRange(10, 19, 4)]
    assert known_cuts(folder).open_cuts(0) == kept
    for _ in range(2):
        journal = journal_of(tmp_path)
        again = open_cuts(journal, folder)
        assert (again.open_cuts(0), again.next_batch_seq) == (kept, 7)
        assert not legacy.exists()
        journal.abandon()


def test_damaged_log_of_an_older_agent_frees_no_number(tmp_path: Path) -> None:
    """A flipped bit in it costs numbers, and is reported."""
    folder = folder_of(tmp_path)
    text = b"[0,9,3]"
    line = b"%08x %s\n" % (zlib.crc32(text), text)
    (folder / CUTS_LOG_FILE).write_bytes(line + b"0" + line[1:])
    journal = journal_of(tmp_path)
    assert open_cuts(journal, folder).next_batch_seq > 4
    assert ["damaged" in notice for notice in journal.notices] == [True]
    journal.abandon()


def test_journal_deleted_under_its_process_is_written_again(tmp_path: Path) -> None:
    """With the spool somebody deleted it; the next look makes it again, with all it knows."""
    journal = journal_of(tmp_path)
    mine = open_cuts(journal, folder_of(tmp_path))
    journal.add([(mine, cuts(2)[0])])
    shutil.rmtree(tmp_path / "spool" / ".cuts")
    journal.add([(mine, cuts(2)[1])])
    journal.abandon()
    assert known_cuts(folder_of(tmp_path)).open_cuts(0) == cuts(2)


def test_journal_stays_small_while_cuts_are_acknowledged(tmp_path: Path) -> None:
    """Compaction keeps the cuts without an acknowledgement, and the next numbers."""
    journal = journal_of(tmp_path)
    names = [f"folder-of-a-run-with-a-name-{number}" for number in range(100)]
    opened = [open_cuts(journal, folder_of(tmp_path, name)) for name in names]
    for number in range(200):
        cut = BatchRange(number, number, number)
        journal.add((folder, cut) for folder in opened)
        for folder in opened[1:]:
            journal.forget(folder, number + 1, number + 1)
    assert log_of(tmp_path).stat().st_size < 2 * COMPACT_BYTES
    journal.abandon()
    first = known_cuts(folder_of(tmp_path, names[0]))
    assert len(first.open_cuts(0)) == 200
    last = known_cuts(folder_of(tmp_path, names[1]), position=200)
    assert last.next_batch_seq == 200


def test_other_destinations_have_journals_of_their_own(tmp_path: Path) -> None:
    """What was sent elsewhere is not sent here again."""
    killed_journal(tmp_path, 2)
    other = CutJournal(tmp_path, "d2")
    assert open_cuts(other, folder_of(tmp_path)).open_cuts(0) == []
    other.abandon()


def test_journal_that_is_taken_over_while_it_is_looked_for_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process died, and another copies it away between the listing and the reading."""
    dead, reading = journal_of(tmp_path), journal_of(tmp_path)
    open_cuts(reading, folder_of(tmp_path, "other"))
    mine = open_cuts(dead, folder_of(tmp_path))
    dead.add((mine, cut) for cut in cuts(2))
    dead.abandon()
    gone, taking = log_of(tmp_path), journal_of(tmp_path)
    stat = Path.stat

    def take_over(path: Path, **kwargs: Any) -> os.stat_result:
        if path == gone:
            monkeypatch.setattr(Path, "stat", stat)
            open_cuts(taking, folder_of(tmp_path, "third"))
        return stat(path, **kwargs)

    monkeypatch.setattr(Path, "stat", take_over)
    theirs = open_cuts(reading, folder_of(tmp_path))
    assert log_of(tmp_path) != gone
    assert theirs.open_cuts(0) == cuts(2)
    assert theirs.next_batch_seq == 2
    for journal in (reading, taking):
        journal.abandon()


def test_journals_that_cannot_be_listed_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for none, they would free the numbers of batches that were sent."""
    killed_journal(tmp_path, 2)

    def refuse(*_args: Any) -> Any:
        raise PermissionError(errno.EACCES, "permission denied")

    journal = journal_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(PermissionError):
            open_cuts(journal, folder_of(tmp_path))
    assert open_cuts(journal, folder_of(tmp_path)).open_cuts(0) == cuts(2)
    journal.abandon()


def test_folder_that_moves_elsewhere_leaves_out_numbers_that_damage_swallowed(
    tmp_path: Path,
) -> None:
    """`runwire sync --to` reads the journal, too: both destinations may fill the same tables."""
    killed_journal(tmp_path, 4)
    path = log_of(tmp_path)
    *lines, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + b"x" + last[1:])
    assert known_cuts(folder_of(tmp_path)).next_batch_seq >= 4
    path.write_bytes(b"x" * 40 + b"\n")
    assert known_cuts(folder_of(tmp_path), position=500, saved=50).next_batch_seq > 50


def test_journal_deleted_by_another_machine_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS says of such a file that its handle is stale, at every look at it."""
    journal = journal_of(tmp_path)
    mine = open_cuts(journal, folder_of(tmp_path))
    journal.add([(mine, cuts(2)[0])])
    gone, fstat = log_of(tmp_path).stat().st_ino, os.fstat
    log_of(tmp_path).rename(tmp_path / "gone")

    def refuse(fd: int) -> os.stat_result:
        state = fstat(fd)
        if state.st_ino == gone:
            raise OSError(errno.ESTALE, "stale file handle")
        return state

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", refuse)
        journal.add([(mine, cuts(2)[1])])
    journal.abandon()
    assert known_cuts(folder_of(tmp_path)).open_cuts(0) == cuts(2)


def test_cut_that_could_not_be_synced_is_in_no_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not sent, and its own process forgets it: no other one may send it either."""
    journal = journal_of(tmp_path)
    mine = open_cuts(journal, folder_of(tmp_path))
    journal.add([(mine, cuts(2)[0])])

    def refuse(_fd: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refuse)
        with pytest.raises(OSError, match="input/output"):
            journal.add([(mine, cuts(2)[1])])
    assert mine.open_cuts(0) == known_cuts(folder_of(tmp_path)).open_cuts(0) == cuts(1)
    other = BatchRange(10, 30, 1)
    journal.add([(mine, other)])
    journal.abandon()
    assert known_cuts(folder_of(tmp_path)).open_cuts(0) == [*cuts(1), other]
