"""The agent as a process: elected once, survives its own kill, leaves nobody behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runwire.agent_launch import agent_environment, ensure_agent
from runwire.settings import Settings
from runwire_agent.agent import Agent, run_in_thread
from runwire_disk.agents.lock import AgentLock, lock_path
from runwire_disk.host import boot_id, pid_namespace
from runwire_disk.spool.reader import list_folders, writer_alive
from runwire_schemas.events import RunEvent
from support.watched import DEADLINE_S, WRITERS, agent_events, close_writers, trainer, wait_until


@pytest.fixture(autouse=True)
def _close_writers() -> Iterator[None]:
    yield
    close_writers()


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


COMMAND = [sys.executable, "-m", "runwire_agent"]


def start(root: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "--dir", str(root), *arguments], cwd="/", stderr=subprocess.DEVNULL
    )


def test_it_survives_its_own_kill(tmp_path: Path) -> None:
    """Killed between heartbeats; the next one goes on from the folders alone."""
    trainer(tmp_path)
    first = start(tmp_path)
    wait_until(lambda: len(agent_events(tmp_path)) > 0)
    first.kill()
    first.wait()
    WRITERS[0].abandon()
    second = start(tmp_path, "--exit-when-idle-s", "0.1")
    assert second.wait(DEADLINE_S) == 0
    ends = [e for e in agent_events(tmp_path) if isinstance(e, RunEvent)]
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
        wait_until(lambda: len(agent_events(tmp_path)) > 0)
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
        wait_until(lambda: len(agent_events(tmp_path)) > 0)
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
    WRITERS[0].abandon()
    assert agent._may_leave()
    agent.close()
    assert not writer_alive(list_folders(tmp_path)[0])
