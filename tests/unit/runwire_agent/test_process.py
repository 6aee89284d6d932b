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
from runwire_agent.agent import run_in_thread
from runwire_disk.agents.lock import AgentLock, lock_path
from runwire_disk.host import boot_id, pid_namespace
from runwire_schemas.events import RunEvent
from support.node import node_settings
from support.watched import DEADLINE_S, WRITERS, agent_events, close_writers, trainer, wait_until

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def _close_writers() -> Iterator[None]:
    yield
    close_writers()


def test_a_second_agent_of_a_root_exits_with_0(tmp_path: Path) -> None:
    """It names the process that holds the lock."""
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


def test_next_agent_resumes_from_the_disk_after_a_kill(tmp_path: Path) -> None:
    """Killed between heartbeats; the next one knows nothing but the folders."""
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


def test_agent_exits_when_no_trainer_lives(tmp_path: Path) -> None:
    """Exit status 0, without a signal."""
    process = start(tmp_path, "--exit-when-idle-s", "0.1")
    assert process.wait(DEADLINE_S) == 0


def test_an_unusable_root_is_one_sentence(tmp_path: Path) -> None:
    """Exit status 1, and the settings that choose another root."""
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
    wait_until(lambda: bool(lock.holder()))
    agent = psutil.Process(lock.holder())
    try:
        ensure_agent(tmp_path, Settings(agent="process"))
        wait_until(lambda: len(agent_events(tmp_path)) > 0)
        assert lock.holder() == agent.pid
        assert agent.cwd() == "/"
        # A session of its own: Ctrl-C on the trainer's terminal does not reach it.
        assert os.getsid(agent.pid) != os.getsid(0)
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(DEADLINE_S)
    assert not lock.held()


def test_no_agent_is_started_with_agent_none(tmp_path: Path) -> None:
    """RUNWIRE_AGENT=none leaves not even the folder of its lock."""
    ensure_agent(tmp_path, Settings(agent="none"))
    assert not (tmp_path / "agents").exists()


def test_an_agent_that_cannot_start_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The trainer trains on; the warning names the command that starts one by hand."""
    (tmp_path / "agents").write_text("a file")
    ensure_agent(tmp_path, Settings(agent="process"))
    assert "no agent could be started" in caplog.text
    assert "runwire agent --dir" in caplog.text


def test_agent_environment_has_no_rank_of_the_trainer() -> None:
    """The node's agent serves all ranks, so it inherits the facts of none."""
    environ = {"RANK": "3", "TORCHELASTIC_RUN_ID": "x", "RUNWIRE_RUN_ID": "r", "PATH": "/bin"}
    assert agent_environment(environ) == {"PATH": "/bin"}


def test_agent_in_a_thread_watches_like_the_process(tmp_path: Path) -> None:
    """It holds the same lock, so there is still one agent, and it frees the lock at its end."""
    trainer(tmp_path)
    agent = run_in_thread(tmp_path, node_settings(tmp_path))
    assert agent is not None
    try:
        assert run_in_thread(tmp_path, node_settings(tmp_path)) is None
        wait_until(lambda: len(agent_events(tmp_path)) > 0)
    finally:
        agent.stop.set()
        wait_until(lambda: not agent.lock.held())


def test_agent_exits_when_its_lock_file_is_deleted(tmp_path: Path) -> None:
    """The data root was removed: an agent of nothing must not stay for ever."""
    process = start(tmp_path)
    path = lock_path(tmp_path, boot_id(), pid_namespace())
    wait_until(AgentLock(path).held)
    path.unlink()
    assert process.wait(DEADLINE_S) == 0
