"""What an agent does at each look: beats for the living, records the dead once."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire_agent.agent import HEARTBEAT_INTERVAL_S, Agent
from runwire_disk.agents.lock import AgentLock, lock_path
from runwire_disk.host import boot_id
from runwire_disk.spool.format import ENDED_FILE
from runwire_disk.spool.reader import list_folders, read_meta
from runwire_schemas.events import Heartbeat, RunEvent
from support.watched import agent_events, close_writers, trainer


@pytest.fixture(autouse=True)
def _close_writers() -> Iterator[None]:
    yield
    close_writers()


def test_a_living_writer_gets_a_heartbeat_per_interval(tmp_path: Path) -> None:
    """The first at once, then one per interval, about the trainer and not the agent."""
    made = trainer(tmp_path, rank=3, world_size=8)
    agent = Agent(tmp_path)
    for at_s in (0.0, 0.5, HEARTBEAT_INTERVAL_S - 0.1, HEARTBEAT_INTERVAL_S, 6.0):
        agent.tick(at_s)
    agent.close()
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
        agent = Agent(tmp_path)
        agent.tick(0.0)
        agent.tick(1.0)
        agent.close()
    ends = agent_events(tmp_path)
    assert len(ends) == 1
    end = ends[0]
    assert isinstance(end, RunEvent)
    assert (end.event, end.status, end.writer, end.seq) == ("finished", "killed", made.writer, 1)
    assert end.reporter not in (None, made.writer)
    assert "process 4242" in (end.status_reason or "")
    folder = next(f for f in list_folders(tmp_path) if read_meta(f).role == "trainer")
    assert json.loads((folder / ENDED_FILE).read_text())["status"] == "killed"


def test_a_finished_writer_is_left_alone(tmp_path: Path) -> None:
    trainer(tmp_path, ends="finishes")
    agent = Agent(tmp_path)
    agent.tick(0.0)
    agent.close()
    assert agent_events(tmp_path) == []


def test_a_rebooted_machine_is_named(tmp_path: Path) -> None:
    """Folders of an earlier boot of this host have no agent but us."""
    trainer(tmp_path, ends="dies", boot_id="an-earlier-boot")
    agent = Agent(tmp_path)
    agent.tick(0.0)
    agent.close()
    (end,) = agent_events(tmp_path)
    assert isinstance(end, RunEvent)
    assert "machine went down" in (end.status_reason or "")


def test_other_machines_and_watched_containers_are_left_alone(tmp_path: Path) -> None:
    """A shared file system shows folders of other hosts; a container has its own agent."""
    trainer(tmp_path, "other-host", ends="dies", boot_id="b", host="elsewhere")
    trainer(tmp_path, "container", ends="dies", pid_ns="pid:[1]")
    watching = AgentLock(lock_path(tmp_path, boot_id(), "pid:[1]"))
    assert watching.acquire()
    agent = Agent(tmp_path)
    agent.tick(0.0)
    assert agent_events(tmp_path) == []
    watching.release()
    agent.tick(100.0)
    agent.close()
    assert [e.run_id for e in agent_events(tmp_path)] == ["container"]


def test_a_dead_worker_process_does_not_end_its_run(tmp_path: Path) -> None:
    """DataLoader workers always end with os._exit: only their last counts are kept."""
    trainer(tmp_path, ends="dies", worker_of=0)
    agent = Agent(tmp_path)
    agent.tick(0.0)
    agent.close()
    (beat,) = agent_events(tmp_path)
    assert isinstance(beat, Heartbeat)
    assert beat.phase == "ended"


def test_what_is_said_of_an_offline_run_stays_offline(tmp_path: Path) -> None:
    trainer(tmp_path, "off", ends="dies", mode="offline")
    trainer(tmp_path, "on", ends="dies")
    agent = Agent(tmp_path)
    agent.tick(0.0)
    agent.close()
    modes = [read_meta(f).mode for f in list_folders(tmp_path) if read_meta(f).role == "agent"]
    assert sorted(modes) == ["offline", "online"]


def test_damaged_and_vanishing_folders_do_not_stop_it(tmp_path: Path) -> None:
    trainer(tmp_path, ends="dies")
    broken = tmp_path / "spool" / "broken"
    broken.mkdir()
    (broken / "meta.json").write_text("{")
    agent = Agent(tmp_path)
    agent.tick(0.0)
    trainer(tmp_path, "r2", ends="dies")
    agent.tick(1.0)
    agent.close()
    (broken / "meta.json").unlink()
    broken.rmdir()
    assert [e.run_id for e in agent_events(tmp_path)] == ["r1", "r2"]


def test_its_own_folder_deleted_is_made_again(tmp_path: Path) -> None:
    trainer(tmp_path)
    agent = Agent(tmp_path)
    agent.tick(0.0)
    own = next(f for f in list_folders(tmp_path) if read_meta(f).role == "agent")
    own.rename(tmp_path / "gone")
    agent.tick(100.0)
    agent.close()
    assert len(agent_events(tmp_path)) == 1


def test_settled_folders_cost_no_look(tmp_path: Path) -> None:
    """Thousands of finished folders: one listing, then none until the directory changes."""
    for number in range(3):
        trainer(tmp_path, f"r{number}", ends="finishes")
    agent = Agent(tmp_path)
    agent.tick(0.0)
    assert agent._folders.unsettled() == {}
    agent.close()
