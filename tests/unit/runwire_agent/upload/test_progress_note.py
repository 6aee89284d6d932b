"""The progress note of a request: saved often enough, and not once per file."""

import itertools
import time
from pathlib import Path

import pytest

from runwire_agent.upload.progress_note import SAVE_SHARE, ProgressNote
from runwire_disk.outbox.hashing import Signature
from runwire_store.memory import MemoryObjectStore
from runwire_store.store import StoreAway
from support.uploads import UploadRig, folder_of, for_kafka, leave

FOUND = Signature(3, 5, 7)


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files the note named each time it was written."""
    counted: list[int] = []
    save = ProgressNote.save

    def counting(note: ProgressNote) -> None:
        counted.append(len(note.digests))
        save(note)

    monkeypatch.setattr(ProgressNote, "save", counting)
    return counted


def test_note_is_written_rarely_for_many_files(tmp_path: Path, saves: list[int]) -> None:
    """A write per file is quadratic: 2,000 files took 70 s, 100,000 would take two days."""
    began = time.monotonic()
    with ProgressNote.open(tmp_path) as note:
        for number in range(2000):
            note.note_digest(str(number), "0" * 64, FOUND)
            note.note_acked(f"{number:064x}", 1)
    assert saves[0] == 1  # a single file's digest is there at once
    assert len(saves) <= 2 + 2 * (time.monotonic() - began)


def test_note_is_written_less_often_on_a_slow_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: list[int]
) -> None:
    """At most a tenth of the time is spent writing the note."""
    clock = itertools.count(100, 2)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    note = ProgressNote.open(tmp_path)
    for number in range(100):
        note.note_digest(str(number), "0" * 64, FOUND)
    spent_s, passed_s = 2.0 * len(saves), float(next(clock)) - 100.0
    assert spent_s <= SAVE_SHARE * passed_s + 2.0


@pytest.mark.parametrize("route", ["direct", "kafka"])
def test_interrupted_upload_saves_its_whole_progress(tmp_path: Path, route: str) -> None:
    """The next agent computes no digest again, and sends no piece that arrived."""
    rig = UploadRig(tmp_path)
    rig.store = MemoryObjectStore(trouble=_no_put)
    rig.cluster.denied.add("artifact")
    contents = [b"%d" % number for number in range(50)]
    request = leave(rig.root, contents, **(for_kafka() if route == "kafka" else {}))
    rig.work()
    note = ProgressNote.open(folder_of(rig.root, request))
    assert len(note.digests) == len(contents)
    assert len(note.acked) == (len(contents) if route == "kafka" else 0)


def test_unreadable_note_counts_as_empty(tmp_path: Path) -> None:
    """A damaged note, or one with other fields, is an empty note."""
    for text in ("", "[]", "{}", '{"digests": {}}'):
        (tmp_path / "upload.json").write_text(text)
        assert ProgressNote.open(tmp_path).digests == {}


def _no_put(verb: str, key: str) -> None:
    if verb == "put_file":
        raise StoreAway("gone")
