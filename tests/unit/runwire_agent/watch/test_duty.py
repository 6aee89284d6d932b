"""The watch duty: heartbeats of living trainers, one record of how each dead one ended."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire_agent.watch.duty import HEARTBEAT_INTERVAL_S
from runwire_agent.watch.trainers import TrainerFolders
from runwire_disk.agents.lock import AgentLock, lock_path
from runwire_disk.host import boot_id
from runwire_disk.spool.format import ENDED_FILE
from runwire_disk.spool.reader import list_folders, read_meta
from runwire_schemas.events import Heartbeat, RunEvent
from support.node import watching
from support.watched import agent_events, close_writers, trainer


@pytest.fixture(autouse=True)
def _close_writers() -> Iterator[None]:
    yield
    close_writers()


def test_a_living_writer_gets_a_heartbeat_per_interval(tmp_path: Path) -> None:
    """The first at once, then one per interval, about the trainer and not the agent."""
    made = trainer(tmp_path, rank=3, world_size=8)
    with watching(tmp_path) as watch:
        for at_s in (0.0, 0.5, HEARTBEAT_INTERVAL_S - 0.1, HEARTBEAT_INTERVAL_S, 6.0):
            watch.tick(at_s)
    beats = agent_events(tmp_path)
    assert len(beats) == 2
    for beat in beats:
        assert isinstance(beat, Heartbeat)
        assert (beat.project, beat.run_id, beat.attempt) == ("p", "r1", "a1")
        assert (beat.writer, beat.rank, beat.pid) == (made.writer, 3, 4242)
    assert beats[0].seq != beats[1].seq


def test_a_dead_writer_is_recorded_once(tmp_path: Path) -> None:
    """Its seq beats everything the trainer wrote; ended.json keeps the next agent from it."""
    made = trainer(tmp_path, ends="dies")
    for _ in range(2):
        with watching(tmp_path) as watch:
            watch.tick(0.0)
            watch.tick(1.0)
    ends = agent_events(tmp_path)
    assert len(ends) == 1
    end = ends[0]
    assert isinstance(end, RunEvent)
    assert (end.event, end.status, end.writer, end.seq) == ("finished", "killed", made.writer, 1)
    assert end.reporter not in (None, made.writer)
    assert "process 4242" in (end.status_reason or "")
    folder = next(f for f in list_folders(tmp_path) if read_meta(f).role == "trainer")
    assert json.loads((folder / ENDED_FILE).read_text())["status"] == "killed"


def test_a_finished_writer_gets_no_second_end(tmp_path: Path) -> None:
    """The trainer recorded its own end; the agent adds nothing."""
    trainer(tmp_path, ends="finishes")
    with watching(tmp_path) as watch:
        watch.tick(0.0)
    assert agent_events(tmp_path) == []


def test_the_reason_of_an_end_names_a_reboot(tmp_path: Path) -> None:
    """Folders of an earlier boot of this host have no agent but us."""
    trainer(tmp_path, ends="dies", boot_id="an-earlier-boot")
    with watching(tmp_path) as watch:
        watch.tick(0.0)
    (end,) = agent_events(tmp_path)
    assert isinstance(end, RunEvent)
    assert "machine went down" in (end.status_reason or "")


def test_folders_of_other_machines_and_watched_containers_are_skipped(tmp_path: Path) -> None:
    """A shared file system shows folders of other hosts; a container has its own agent."""
    trainer(tmp_path, "other-host", ends="dies", boot_id="b", host="elsewhere")
    trainer(tmp_path, "container", ends="dies", pid_ns="pid:[1]")
    container = AgentLock(lock_path(tmp_path, boot_id(), "pid:[1]"))
    assert container.acquire()
    with watching(tmp_path) as watch:
        watch.tick(0.0)
        assert agent_events(tmp_path) == []
        container.release()
        watch.tick(100.0)
    assert [e.run_id for e in agent_events(tmp_path)] == ["container"]


def test_a_dead_worker_process_does_not_end_its_run(tmp_path: Path) -> None:
    """DataLoader workers always end with os._exit: only their last counts are kept."""
    trainer(tmp_path, ends="dies", worker_of=0)
    with watching(tmp_path) as watch:
        watch.tick(0.0)
    (beat,) = agent_events(tmp_path)
    assert isinstance(beat, Heartbeat)
    assert beat.phase == "ended"


def test_records_about_offline_runs_stay_offline(tmp_path: Path) -> None:
    """Each mode has a spool folder of its own, and `runwire sync` alone ships the offline one."""
    trainer(tmp_path, "off", ends="dies", mode="offline")
    trainer(tmp_path, "on", ends="dies")
    with watching(tmp_path) as watch:
        watch.tick(0.0)
    modes = [read_meta(f).mode for f in list_folders(tmp_path) if read_meta(f).role == "agent"]
    assert sorted(modes) == ["offline", "online"]


def test_a_damaged_folder_does_not_stop_the_watch(tmp_path: Path) -> None:
    """A folder whose meta.json cannot be parsed is skipped; the others are watched."""
    trainer(tmp_path, ends="dies")
    broken = tmp_path / "spool" / "broken"
    broken.mkdir()
    (broken / "meta.json").write_text("{")
    with watching(tmp_path) as watch:
        watch.tick(0.0)
        trainer(tmp_path, "r2", ends="dies")
        watch.tick(1.0)
    (broken / "meta.json").unlink()
    broken.rmdir()
    assert [e.run_id for e in agent_events(tmp_path)] == ["r1", "r2"]


def test_the_agent_s_own_folder_is_made_again_when_deleted(tmp_path: Path) -> None:
    """A user who cleans the spool up loses records, but not the agent."""
    trainer(tmp_path)
    with watching(tmp_path) as watch:
        watch.tick(0.0)
        own = next(f for f in list_folders(tmp_path) if read_meta(f).role == "agent")
        own.rename(tmp_path / "gone")
        watch.tick(100.0)
    assert len(agent_events(tmp_path)) == 1


def test_settled_folders_are_not_looked_at_again(tmp_path: Path) -> None:
    """Thousands of finished folders: one listing, then none until the directory changes."""
    folders = TrainerFolders(tmp_path)
    for number in range(3):
        trainer(tmp_path, f"r{number}", ends="finishes")
    assert len(folders.unsettled()) == 3
    for folder in folders.unsettled():
        folders.settle(folder)
    assert folders.unsettled() == {}


def test_watch_reports_every_living_trainer_on_its_last_tick(tmp_path: Path) -> None:
    """An agent that ends leaves the latest counts, whenever the last heartbeat was."""
    trainer(tmp_path)
    with watching(tmp_path) as watch:
        watch.tick(0.0)
        watch.tick(0.1, is_last=True)
    assert len(agent_events(tmp_path)) == 2


def test_watch_is_needed_only_while_a_trainer_of_this_namespace_lives(tmp_path: Path) -> None:
    """Folders made since the last tick count; dead writers and other containers do not."""
    with watching(tmp_path) as watch:
        watch.tick(0.0)
        assert not watch.is_needed()
        trainer(tmp_path, "container", pid_ns="pid:[1]")
        trainer(tmp_path, "dead", ends="dies")
        assert not watch.is_needed()
        trainer(tmp_path)
        assert watch.is_needed()
