"""The agent: beats for the living, records the dead once, leaves nobody behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from runwire.agent.launch import agent_environment, ensure_agent
from runwire.agent.lock import AgentLock, lock_path
from runwire.agent.loop import HEARTBEAT_INTERVAL_S, Agent, run_in_thread
from runwire.host import boot_id, hostname, pid_namespace
from runwire.settings import Settings
from runwire.spool.writer import SpoolWriter
from runwire_schemas import codec
from runwire_schemas.events import Event, Heartbeat, RunEvent
from runwire_schemas.spool.format import ENDED_FILE, Meta
from runwire_schemas.spool.reader import FolderReader, list_folders, read_meta, writer_alive

DEADLINE_S = 30.0


def meta(run_id: str = "r1", **changes: object) -> Meta:
    made = Meta(
        writer=os.urandom(16).hex(),
        role="trainer",
        project="p",
        run_id=run_id,
        attempt="a1",
        rank=0,
        world_size=1,
        host=hostname(),
        boot_id=boot_id(),
        pid_ns=pid_namespace(),
        pid=4242,
        started_at_ns=time.time_ns(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def trainer(root: Path, run_id: str = "r1", *, ends: str = "lives", **changes: object) -> Meta:
    """A writer that started; `ends`: lives, dies (as by SIGKILL) or finishes."""
    made = meta(run_id, **changes)
    writer = SpoolWriter.create(root, made)
    writer.append_json("run", {"event": "started", "status": "running"})
    if ends == "finishes":
        writer.append_json("run", {"event": "finished", "status": "finished"})
        writer.close()
    elif ends == "dies":
        writer.abandon()
    _writers.append(writer)
    return made


_writers: list[SpoolWriter] = []


@pytest.fixture(autouse=True)
def _close_writers() -> Iterator[None]:
    yield
    for writer in _writers:
        writer.close()
    _writers.clear()


def said(root: Path) -> list[Event]:
    """Everything that agents wrote under `root`."""
    events: list[Event] = []
    for folder in list_folders(root):
        if read_meta(folder).role != "agent":
            continue
        reader = FolderReader(folder, sync=False)
        while cuts := reader.cut():
            events += [codec.decode(cut.value) for cut in cuts]
        reader.close()
    return events


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_a_living_writer_gets_a_heartbeat_per_interval(tmp_path: Path) -> None:
    """The first at once, then one per interval, about the trainer and not the agent."""
    made = trainer(tmp_path, rank=3, world_size=8)
    agent = Agent(tmp_path)
    for at_s in (0.0, 0.5, HEARTBEAT_INTERVAL_S - 0.1, HEARTBEAT_INTERVAL_S, 6.0):
        agent.tick(at_s)
    agent.close()
    beats = said(tmp_path)
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
    ends = said(tmp_path)
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
    assert said(tmp_path) == []


def test_a_rebooted_machine_is_named(tmp_path: Path) -> None:
    """Folders of an earlier boot of this host have no agent but us."""
    trainer(tmp_path, ends="dies", boot_id="an-earlier-boot")
    agent = Agent(tmp_path)
    agent.tick(0.0)
    agent.close()
    (end,) = said(tmp_path)
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
    assert said(tmp_path) == []
    watching.release()
    agent.tick(100.0)
    agent.close()
    assert [e.run_id for e in said(tmp_path)] == ["container"]


def test_a_dead_worker_process_does_not_end_its_run(tmp_path: Path) -> None:
    """DataLoader workers always end with os._exit: only their last counts are kept."""
    trainer(tmp_path, ends="dies", worker_of=0)
    agent = Agent(tmp_path)
    agent.tick(0.0)
    agent.close()
    (beat,) = said(tmp_path)
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
    assert [e.run_id for e in said(tmp_path)] == ["r1", "r2"]


def test_its_own_folder_deleted_is_made_again(tmp_path: Path) -> None:
    trainer(tmp_path)
    agent = Agent(tmp_path)
    agent.tick(0.0)
    own = next(f for f in list_folders(tmp_path) if read_meta(f).role == "agent")
    own.rename(tmp_path / "gone")
    agent.tick(100.0)
    agent.close()
    assert len(said(tmp_path)) == 1


def test_settled_folders_cost_no_look(tmp_path: Path) -> None:
    """Thousands of finished folders: one listing, then none until the directory changes."""
    for number in range(3):
        trainer(tmp_path, f"r{number}", ends="finishes")
    agent = Agent(tmp_path)
    agent.tick(0.0)
    assert agent._folders.unsettled() == {}
    agent.close()


def test_one_agent_per_root(tmp_path: Path) -> None:
    """A second one says who watches and ends well."""
    first = start(tmp_path)
    try:
        lock = AgentLock(lock_path(tmp_path, boot_id(), pid_namespace()))
        wait_until(lock.held)
        second = subprocess.run(
            [*COMMAND, "--dir", str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert second.returncode == 0
        assert f"process {first.pid} already watches" in second.stderr
    finally:
        first.terminate()
        assert first.wait(DEADLINE_S) == 0


COMMAND = [sys.executable, "-m", "runwire.agent"]


def start(root: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "--dir", str(root), *arguments], cwd="/", stderr=subprocess.DEVNULL
    )


def test_it_survives_its_own_kill(tmp_path: Path) -> None:
    """Killed between heartbeats; the next one goes on from the folders alone."""
    trainer(tmp_path)
    first = start(tmp_path)
    wait_until(lambda: len(said(tmp_path)) > 0)
    first.kill()
    first.wait()
    _writers[0].abandon()
    second = start(tmp_path, "--exit-when-idle-s", "0.1")
    assert second.wait(DEADLINE_S) == 0
    ends = [e for e in said(tmp_path) if isinstance(e, RunEvent)]
    assert [e.status for e in ends] == ["killed"]


def test_it_leaves_when_nobody_lives(tmp_path: Path) -> None:
    process = start(tmp_path, "--exit-when-idle-s", "0.1")
    assert process.wait(DEADLINE_S) == 0


def test_an_unusable_root_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [*COMMAND, "--dir", str(tmp_path / "file")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "--dir or RUNWIRE_DIR" in done.stderr


def test_a_trainer_starts_one_agent_that_is_not_its_child(tmp_path: Path) -> None:
    """`init` leaves the trainer no child to reap; asking again starts no second one."""
    trainer(tmp_path)
    lock = AgentLock(lock_path(tmp_path, boot_id(), pid_namespace()))
    children = psutil.Process().children()
    ensure_agent(tmp_path, Settings(agent="process"))
    assert psutil.Process().children() == children
    wait_until(lambda: lock.held() and lock.holder() != "unknown")
    agent = psutil.Process(int(lock.holder()))
    try:
        ensure_agent(tmp_path, Settings(agent="process"))
        wait_until(lambda: len(said(tmp_path)) > 0)
        assert int(lock.holder()) == agent.pid
        assert agent.cwd() == "/"
        # A session of its own: Ctrl-C on the trainer's terminal does not reach it.
        assert os.getsid(agent.pid) != os.getsid(0)
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(DEADLINE_S)
    assert not lock.held()


def test_no_agent_is_started_when_none_is_wanted(tmp_path: Path) -> None:
    ensure_agent(tmp_path, Settings(agent="none"))
    assert not (tmp_path / "agents").exists()


def test_an_agent_that_cannot_start_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "agents").write_text("a file")
    ensure_agent(tmp_path, Settings(agent="process"))
    assert "no agent could be started" in caplog.text
    assert "runwire agent --dir" in caplog.text


def test_the_agent_has_no_rank() -> None:
    """What belongs to one rank of the trainer is not inherited by the node's agent."""
    environ = {"RANK": "3", "TORCHELASTIC_RUN_ID": "x", "RUNWIRE_RUN_ID": "r", "PATH": "/bin"}
    clean = agent_environment(environ)
    assert clean.pop("PYTHONPATH", "")
    assert clean == {"PATH": "/bin"}


def test_the_thread_watches_like_the_process(tmp_path: Path) -> None:
    trainer(tmp_path)
    agent = run_in_thread(tmp_path)
    assert agent is not None
    try:
        assert run_in_thread(tmp_path) is None
        wait_until(lambda: len(said(tmp_path)) > 0)
    finally:
        agent.stop.set()
        wait_until(lambda: not agent.lock.held())


def test_a_lock_file_that_was_deleted_ends_the_agent(tmp_path: Path) -> None:
    """Somebody removed the data root: an agent of nothing must not stay for ever."""
    process = start(tmp_path)
    path = lock_path(tmp_path, boot_id(), pid_namespace())
    wait_until(AgentLock(path).held)
    path.unlink()
    assert process.wait(DEADLINE_S) == 0


def test_a_trainer_that_comes_while_it_leaves_is_watched(tmp_path: Path) -> None:
    """The trainer saw the lock held and started nobody: the leaving agent must see the trainer."""
    agent = Agent(tmp_path, exit_when_idle_s=0.0)
    assert agent.lock.acquire()
    trainer(tmp_path)
    assert not agent._may_leave()
    assert agent.lock.still_ours()
    _writers[0].abandon()
    assert agent._may_leave()
    agent.close()
    assert not writer_alive(list_folders(tmp_path)[0])
