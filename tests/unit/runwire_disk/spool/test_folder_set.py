"""Folder sets: which folders are held, how they take turns, and when they are let go."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runwire_disk.spool.folder_set import (
    AGENT_GRACE_S,
    BUSY_RETRY_S,
    DESCRIPTORS_EACH,
    FULL_LOOK_S,
    IDLE_BUDGET_S,
    RESCAN_S,
    SKIPPED_RETRY_S,
    FolderSet,
)
from runwire_disk.spool.format import ENDED_FILE, META_FILE, read_cursor
from runwire_disk.spool.reader import FolderReader
from runwire_disk.spool.writer import SpoolWriter
from support.spools import metric_log, new_writer


@dataclass
class Rig:
    """A set over local folders, on a clock that tests move."""

    root: Path
    now_s: float = 1000.0
    opened: list[Path] = field(default_factory=list)
    visited: list[Path] = field(default_factory=list)
    stays: bool = False
    visit_takes_s: float = 0.0

    def __post_init__(self) -> None:
        self.folders = FolderSet(
            self.root,
            self._open,
            is_mine=lambda _folder, meta: meta.route == "local",
            stays=lambda _: self.stays,
            monotonic_s=lambda: self.now_s,
        )

    def _open(self, folder: Path) -> FolderReader:
        self.opened.append(folder)
        return FolderReader(folder)

    def take(self, reader: FolderReader) -> int:
        """Read and commit what is new; return the number of cuts."""
        self.visited.append(reader.folder)
        self.now_s += self.visit_takes_s
        cuts = reader.cut()
        for cut in cuts:
            reader.advance(cut.series, cut.last_seq + 1, batch_seq=cut.batch_seq + 1)
        return len(cuts)

    def round(self, after_s: float = 1.0) -> list[Path]:
        """Rescan and visit once; return the folders visited."""
        self.now_s += after_s
        self.folders.rescan()
        self.visited.clear()
        self.folders.visit(self.take)
        self.folders.tidy()
        return list(self.visited)

    def drain(self) -> None:
        for _ in range(5):
            self.round()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.folders.close()


def age(*writers: SpoolWriter) -> None:
    """Make the folders old: one that was changed a moment ago is looked at again."""
    for writer in writers:
        os.utime(writer.folder, ns=(0, 0))


def ended_writer(root: Path, *, finished: bool = True) -> SpoolWriter:
    writer = new_writer(root)
    metric_log(writer).log({"a": 1.0})
    if finished:
        writer.append_json("run", {"event": "finished", "status": "finished"})
    writer.close()
    return writer


def test_no_folder_reader_or_inode_is_kept_after_writers_finished(rig: Rig) -> None:
    """After N finished writers the set remembers nothing of them."""
    for _ in range(5):
        ended_writer(rig.root)
    readers: list[weakref.ref[FolderReader]] = []
    rig.now_s += 1.0
    rig.folders.rescan()
    readers += [weakref.ref(reader) for reader in rig.folders.readers()]
    assert len(rig.folders.remembered) == len(readers) == 5
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    rig.drain()
    gc.collect()
    assert rig.folders.remembered == set()
    assert [reader() for reader in readers] == [None] * 5
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors - 5
    assert list((rig.root / "spool").iterdir()) == []


def test_nothing_is_remembered_of_folders_that_were_deleted(rig: Rig) -> None:
    """Held, busy, foreign, kept and unreadable ones: all are forgotten with their folder."""
    held, busy = new_writer(rig.root), new_writer(rig.root)
    foreign, unreadable = new_writer(rig.root, route="kafka"), new_writer(rig.root)
    (unreadable.folder / META_FILE).write_text("{")
    other = FolderReader(busy.folder)
    rig.round()
    assert len(rig.folders.remembered) == 4
    other.close()
    for writer in (held, busy, foreign, unreadable):
        writer.close()
        shutil.rmtree(writer.folder)
    rig.round()
    assert rig.folders.remembered == set()


@pytest.mark.parametrize("ending", ["finished", "noted by the agent", "nobody noted"])
def test_dead_trainer_s_folder_waits_for_the_agent(rig: Rig, ending: str) -> None:
    """Without a finish the agent still has to learn of the death; it is waited for, not forever."""
    writer = ended_writer(rig.root, finished=ending == "finished")
    rig.drain()
    if ending != "finished":
        assert writer.folder.exists()
        if ending == "noted by the agent":
            (writer.folder / ENDED_FILE).write_text("{}", "utf-8")
        else:
            rig.now_s += AGENT_GRACE_S
        rig.drain()
    assert not writer.folder.exists()


def test_folder_that_is_not_mine_is_never_locked(rig: Rig) -> None:
    """Its own reader must find it free at any time, also while its route is being changed."""
    foreign = new_writer(rig.root, route="kafka")
    mine = new_writer(rig.root)
    rig.round()
    assert rig.opened == [mine.folder]
    FolderReader(foreign.folder).close()
    foreign.close()
    mine.close()


def test_busy_folder_is_opened_once_its_reader_left(rig: Rig) -> None:
    """`busy` names it meanwhile; it is asked again after a short rest, not at every look."""
    writer = new_writer(rig.root)
    other = FolderReader(writer.folder)
    rig.round()
    assert rig.folders.busy == {writer.folder}
    other.close()
    rig.round(BUSY_RETRY_S / 2)
    assert rig.folders.get(writer.folder) is None
    rig.round(BUSY_RETRY_S)
    assert rig.folders.get(writer.folder) is not None
    assert rig.folders.busy == set()
    writer.close()


def test_unreadable_folder_is_logged_once_and_tried_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged meta.json is one line in the log; the folder is read once it is repaired."""
    writer = new_writer(rig.root)
    meta = (writer.folder / META_FILE).read_text()
    (writer.folder / META_FILE).write_text("{")
    for _ in range(3):
        rig.round(SKIPPED_RETRY_S)
    assert caplog.text.count("cannot be read for now") == 1
    (writer.folder / META_FILE).write_text(meta)
    rig.round(SKIPPED_RETRY_S)
    assert rig.folders.get(writer.folder) is not None
    writer.close()


def test_folder_that_stays_is_saved_and_not_opened_again(rig: Rig) -> None:
    """It holds what a person must look at; it is forgotten once the person deleted it."""
    rig.stays = True
    writer = ended_writer(rig.root)
    rig.drain()
    new_writer(rig.root).close()
    rig.drain()
    assert rig.opened.count(writer.folder) == 1
    assert writer.folder in rig.folders.kept
    reader = FolderReader(writer.folder)
    assert reader.cut() == []
    reader.close()
    shutil.rmtree(writer.folder)
    rig.drain()
    assert writer.folder not in rig.folders.remembered


def test_replaced_folder_is_let_go_and_opened_anew(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """A live writer whose folder was deleted makes one of the same name with another inode."""
    writer = new_writer(rig.root)
    rig.round()
    old = rig.folders.get(writer.folder)
    shutil.rmtree(writer.folder)
    writer.recover_deleted()
    rig.round()
    assert rig.folders.get(writer.folder) not in (None, old)
    assert "was deleted while it was being read" in caplog.text
    writer.close()


def test_folder_deleted_during_its_visit_is_let_go(rig: Rig) -> None:
    """The other folders of the round are visited all the same."""
    writers = [new_writer(rig.root) for _ in range(3)]
    for writer in writers:
        metric_log(writer).log({"a": 1.0})
    rig.now_s += 1.0
    rig.folders.rescan()
    shutil.rmtree(writers[1].folder)
    rig.folders.visit(rig.take)
    assert len(rig.visited) == 3
    held = {reader.folder for reader in rig.folders.readers()}
    assert held == {writers[0].folder, writers[2].folder}
    for writer in writers:
        writer.close()


def test_folder_that_cannot_be_deleted_is_tried_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A read-only disk stops neither the worker nor the agent, and the folder goes later."""
    writer = ended_writer(rig.root)

    def refuse(_self: Path, _target: Path) -> Path:
        raise OSError(errno.EROFS, "read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        rig.drain()
    assert caplog.text.count("cannot be deleted for now") == 1
    assert writer.folder.exists()
    rig.now_s += SKIPPED_RETRY_S
    rig.drain()
    assert not writer.folder.exists()


def test_idle_folders_take_turns_within_the_budget(rig: Rig) -> None:
    """A round visits as many idle folders as fit the budget; every one has its turn."""
    writers = [new_writer(rig.root) for _ in range(10)]
    rig.round()
    age(*writers)
    rig.round()
    rig.visit_takes_s = IDLE_BUDGET_S / 2
    turns = [rig.round() for _ in range(5)]
    assert [len(turn) for turn in turns] == [2] * 5
    assert {folder for turn in turns for folder in turn} == {w.folder for w in writers}
    for writer in writers:
        writer.close()


def test_folder_with_news_is_visited_in_every_round(rig: Rig) -> None:
    """However many folders are idle, one that had news the last time does not wait its turn."""
    writers = [new_writer(rig.root) for _ in range(10)]
    log = metric_log(writers[4])
    log.log({"a": 1.0})
    rig.round()
    age(*writers)
    rig.round()
    rig.visit_takes_s = IDLE_BUDGET_S
    for step in range(5):
        log.log({"a": 2.0}, step)
        assert rig.round()[0] == writers[4].folder
    for writer in writers:
        writer.close()


def test_folder_without_news_is_asked_and_not_visited(rig: Rig) -> None:
    """A question is enough between two visits; news among many idle folders is found at once."""
    writers = [new_writer(rig.root) for _ in range(10)]
    logs = [metric_log(writer) for writer in writers]
    for log in logs:
        log.log({"a": 1.0})
    rig.round()
    age(*writers)
    rig.round()
    for number in (7, 2):
        logs[number].log({"a": 2.0})
        assert rig.round(FULL_LOOK_S / 10) == [writers[number].folder]
    assert rig.round(FULL_LOOK_S / 10) == []
    for writer in writers:
        writer.close()


def test_new_segment_is_news_of_a_folder(rig: Rig) -> None:
    """The header of the segment before it does not change any more; the folder's time does."""
    writer = new_writer(rig.root)
    log = metric_log(writer)
    log.log({"a": 1.0})
    rig.round()
    age(writer)
    rig.round()
    rig.round(FULL_LOOK_S / 10)
    writer.append_json("log", {"stream": "text", "name": "x", "level": "info", "text": "t"})
    assert rig.round(FULL_LOOK_S / 10) == [writer.folder]
    writer.close()


def test_drained_folders_are_deleted_after_the_news_of_others(rig: Rig) -> None:
    """A round deletes for a moment only, and only when its owner says so."""
    ended = [ended_writer(rig.root) for _ in range(3)]
    rig.round()
    rig.now_s += FULL_LOOK_S
    rig.folders.visit(rig.take)
    assert all(writer.folder.exists() for writer in ended)
    rig.folders.tidy()
    assert not any(writer.folder.exists() for writer in ended)


@pytest.mark.parametrize("cause", ["deleted", "no descriptor"])
def test_drained_folder_that_cannot_be_looked_at_stops_nobody(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    """Somebody deleted it, or no descriptor is left for its last records: others go on."""
    writers = [ended_writer(rig.root) for _ in range(2)]
    rig.round()
    rig.now_s += FULL_LOOK_S
    rig.folders.visit(rig.take)
    opens = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).startswith(str(writers[0].folder / "lifecycle-")):
            raise OSError(errno.EMFILE, "too many open files")
        return opens(path, *args, **kwargs)

    if cause == "deleted":
        shutil.rmtree(writers[0].folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        rig.folders.tidy()
    assert not writers[1].folder.exists()
    rig.now_s += SKIPPED_RETRY_S
    rig.drain()
    assert not writers[0].folder.exists()


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Rig]:
    """A set that may open folders while fewer than three are open."""
    made = Rig(tmp_path)
    made.folders = FolderSet(
        tmp_path,
        FolderReader,
        is_mine=lambda _folder, _meta: True,
        monotonic_s=lambda: made.now_s,
        descriptors=lambda: DESCRIPTORS_EACH * (3 - len(made.folders.readers())),
    )
    yield made
    made.folders.close()


def test_folders_take_turns_while_descriptors_are_short(
    short: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten folders, room for three: the records of all are read, and one line says why."""
    writers = [new_writer(short.root) for _ in range(10)]
    logs = [metric_log(writer) for writer in writers]
    for step in range(3):
        for log in logs:
            log.log({"a": 1.0}, step)
        for _ in range(20):
            short.round()
            assert len(short.folders.readers()) <= 3
    short.folders.close()
    for writer in writers:
        assert read_cursor(writer.folder).accepted == 3
        writer.close()
    assert caplog.text.count("no file descriptor is left for 7 spool folders") == 1


def test_folders_are_read_one_by_one_where_only_the_reserve_is_left(tmp_path: Path) -> None:
    """An agent in a thread of a trainer that has most of its files open still ships."""
    rig = Rig(tmp_path)
    rig.folders = FolderSet(
        tmp_path,
        FolderReader,
        is_mine=lambda _folder, _meta: True,
        monotonic_s=lambda: rig.now_s,
        descriptors=lambda: 0,
    )
    writers = [new_writer(tmp_path) for _ in range(3)]
    for writer in writers:
        metric_log(writer).log({"a": 1.0})
    for _ in range(12):
        rig.round()
        assert len(rig.folders.readers()) <= 1
    for reader in rig.folders.readers():
        reader.save()
    rig.folders.close()
    assert [read_cursor(writer.folder).accepted for writer in writers] == [1, 1, 1]
    for writer in writers:
        writer.close()


def test_folder_with_uncommitted_cuts_keeps_its_descriptors(short: Rig) -> None:
    """What was read and is not stored yet must not be read again under another number."""
    writers = [new_writer(short.root) for _ in range(4)]
    for writer in writers:
        metric_log(writer).log({"a": 1.0})
    for _ in range(5):
        short.now_s += 1.0
        short.folders.rescan()
        short.folders.visit(lambda reader: len(reader.cut()))
    assert len(short.folders.readers()) == 3
    assert len(short.folders.waiting) == 1
    for writer in writers:
        writer.close()


def test_round_ends_when_there_is_no_room(rig: Rig) -> None:
    """Folders that were not reached are the first of the next round."""
    writers = [new_writer(rig.root) for _ in range(4)]
    for writer in writers:
        metric_log(writer).log({"a": 1.0})
    rig.now_s += 1.0
    rig.folders.rescan()
    rig.folders.visit(rig.take, has_room=lambda: len(rig.visited) < 2)
    first = set(rig.visited)
    assert len(first) == 2
    rig.visited.clear()
    rig.folders.visit(rig.take)
    assert set(rig.visited[:2]) == {writer.folder for writer in writers} - first
    for writer in writers:
        writer.close()


def test_released_folder_is_opened_again_after_its_rest(rig: Rig) -> None:
    """A folder whose series is stuck is free for its writer's quota meanwhile."""
    writer = new_writer(rig.root)
    rig.round()
    rig.folders.release(writer.folder, retry_s=5.0)
    FolderReader(writer.folder).close()
    rig.round(4.0)
    assert rig.folders.get(writer.folder) is None
    rig.round(1.0)
    assert rig.folders.get(writer.folder) is not None
    writer.close()


def test_closed_set_opens_its_folders_again(rig: Rig) -> None:
    """After an outage the next look finds them, though no folder came or went."""
    writer = new_writer(rig.root)
    rig.round()
    rig.folders.close()
    FolderReader(writer.folder).close()
    rig.round(RESCAN_S)
    assert rig.folders.get(writer.folder) is not None
    writer.close()


def test_error_of_a_visit_reaches_the_caller(rig: Rig) -> None:
    """Each user decides what an unreadable folder costs; the folder stays in the set."""
    writer = new_writer(rig.root)
    rig.round()

    def fail(_reader: FolderReader) -> int:
        raise OSError(errno.EIO, "input/output error")

    with pytest.raises(OSError, match="input/output"):
        rig.folders.visit(fail)
    assert rig.folders.get(writer.folder) is not None
    assert rig.round() == [writer.folder]
    writer.close()


def test_folder_that_gives_back_its_own_descriptors_has_another_turn(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other folder is at rest, so the one that needs more gives back what it has, and waits."""
    writer = new_writer(rig.root)
    metric_log(writer).log({"a": 1.0})
    opens = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".seg"):
            raise OSError(errno.EMFILE, "too many open files")
        return opens(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        for _ in range(3):
            rig.round()
    rig.drain()
    assert read_cursor(writer.folder).accepted == 0
    rig.folders.save(writer.folder)
    assert read_cursor(writer.folder).accepted == 1
    writer.close()
