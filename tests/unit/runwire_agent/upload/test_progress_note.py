"""What is noted beside a request: often enough, and not once per file."""

import itertools
import time
from pathlib import Path

import pytest

from runwire_agent.upload.progress_note import NOTE_SHARE, UploadJournal
from runwire_disk.outbox.hashing import Signature
from runwire_store.memory import MemoryStore
from runwire_store.store import StoreAway
from support.uploads import UploadRig, folder_of, for_kafka, leave

FOUND = Signature(3, 5, 7)


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files the journal named each time it was written."""
    counted: list[int] = []
    save = UploadJournal.save

    def counting(journal: UploadJournal) -> None:
        counted.append(len(journal.digests))
        save(journal)

    monkeypatch.setattr(UploadJournal, "save", counting)
    return counted


def test_many_files_do_not_mean_many_journals(tmp_path: Path, saves: list[int]) -> None:
    """One journal per file is quadratic: 2,000 files took 70 s, 100,000 would take two days."""
    began = time.monotonic()
    with UploadJournal.open(tmp_path) as journal:
        for number in range(2000):
            journal.note_digest(str(number), "0" * 64, FOUND)
            journal.note_acked(f"{number:064x}", 1)
    assert saves[0] == 1  # a single file's digest is there at once
    assert len(saves) <= 2 + 2 * (time.monotonic() - began)


def test_a_slow_disk_is_not_kept_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: list[int]
) -> None:
    clock = itertools.count(100, 2)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    journal = UploadJournal.open(tmp_path)
    for number in range(100):
        journal.note_digest(str(number), "0" * 64, FOUND)
    spent_s, passed_s = 2.0 * len(saves), float(next(clock)) - 100.0
    assert spent_s <= NOTE_SHARE * passed_s + 2.0


@pytest.mark.parametrize("route", ["direct", "kafka"])
def test_what_is_broken_off_is_noted_whole(tmp_path: Path, route: str) -> None:
    """The next agent computes no digest again, and sends no piece that arrived."""
    rig = UploadRig(tmp_path)
    rig.store = MemoryStore(trouble=_no_put)
    rig.cluster.denied.add("artifact")
    contents = [b"%d" % number for number in range(50)]
    request = leave(rig.root, contents, **(for_kafka() if route == "kafka" else {}))
    rig.work()
    journal = UploadJournal.open(folder_of(rig.root, request))
    assert len(journal.digests) == len(contents)
    assert len(journal.acked) == (len(contents) if route == "kafka" else 0)


def test_what_cannot_be_read_counts_as_nothing(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"digests": {}}'):
        (tmp_path / "upload.json").write_text(text)
        assert UploadJournal.open(tmp_path).digests == {}


def _no_put(verb: str, key: str) -> None:
    if verb == "put_file":
        raise StoreAway("gone")
