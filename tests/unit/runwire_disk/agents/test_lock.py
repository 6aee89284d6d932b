"""The lock that elects an agent: its holder, its end, and a file that was replaced."""

import os
import subprocess
import sys
from pathlib import Path

from runwire_disk.agents.lock import AgentLock, local_agents, lock_path
from runwire_disk.spool.format import LOCAL


def test_lock_has_no_holder_before_and_after_an_agent(tmp_path: Path) -> None:
    """A missing file, and a pid left by an agent that ended, name nobody."""
    lock = AgentLock(lock_path(tmp_path, "boot", "ns"))
    assert (lock.held(), lock.holder()) == (False, None)
    assert lock.acquire()
    assert (lock.held(), lock.holder()) == (True, os.getpid())
    lock.release()
    assert lock.path.read_text() == f"{os.getpid()}\n"
    assert (lock.held(), lock.holder()) == (False, None)


def test_holder_without_its_pid_counts_as_an_agent(tmp_path: Path) -> None:
    """Between the lock and the pid a moment passes: 0 says that an agent lives all the same."""
    lock = AgentLock(lock_path(tmp_path, "boot", "ns"))
    assert lock.acquire()
    lock.path.write_text("")
    assert lock.holder() == 0
    lock.release()


def test_second_agent_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    """SIGKILL frees the lock, and the next agent's pid replaces the old one."""
    lock = AgentLock(lock_path(tmp_path, "boot", "ns"))
    code = (
        "import sys, time; from pathlib import Path; "
        "from runwire_disk.agents.lock import AgentLock; "
        "lock = AgentLock(Path(sys.argv[1])); print(lock.acquire(), flush=True); time.sleep(60)"
    )
    lock.path.parent.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", code, lock.path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"True\n"
        assert lock.holder() == child.pid
        assert not lock.acquire(timeout_s=0.0)
        child.kill()
        child.wait()
    assert lock.acquire(timeout_s=0.0)
    assert lock.holder() == os.getpid()
    lock.release()


def test_agent_notices_that_its_lock_file_was_replaced(tmp_path: Path) -> None:
    """A deleted data root and a new one: another agent may hold the new file."""
    lock = AgentLock(lock_path(tmp_path, "boot", "ns"))
    assert not lock.still_ours()
    assert lock.acquire()
    assert lock.still_ours()
    lock.path.unlink()
    assert not lock.still_ours()
    lock.path.touch()
    assert not lock.still_ours()
    lock.release()


def test_each_destination_has_a_lock_of_its_own(tmp_path: Path) -> None:
    """Boot, pid namespace and destination elect apart; the suffix tells local from Kafka."""
    paths = {
        lock_path(tmp_path, boot, namespace, destination)
        for boot in ("b1", "b2")
        for namespace in ("n1", "n2")
        for destination in (LOCAL, "k1", "k2")
    }
    assert len(paths) == 12
    assert sum(path.name.endswith(".kafka.lock") for path in paths) == 8


def test_local_agents_leave_out_those_that_ship(tmp_path: Path) -> None:
    """Each destination has a lock of its own; only the embedded route is local."""
    local = AgentLock(lock_path(tmp_path, "boot", "ns"))
    shipping = AgentLock(lock_path(tmp_path, "boot", "ns", "kafka k:9092"))
    assert local_agents(tmp_path) == []
    assert shipping.acquire()
    assert local_agents(tmp_path) == []
    assert local.acquire()
    assert local_agents(tmp_path) == [os.getpid()]
    local.release()
    shipping.release()
