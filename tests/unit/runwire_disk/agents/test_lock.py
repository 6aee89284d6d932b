"""The lock that elects one agent: who holds it, and what a look at it changes."""

import os
from pathlib import Path

from runwire_disk.agents.lock import AgentLock, local_agents, lock_path, node_lock


def test_pid_of_a_held_lock_is_that_of_its_holder(tmp_path: Path) -> None:
    """None without a file, while it is free, and after its release."""
    lock, look = node_lock(tmp_path), node_lock(tmp_path)
    assert (look.pid(), look.held()) == (None, False)
    assert lock.acquire()
    assert (look.pid(), look.held()) == (os.getpid(), True)
    assert not look.acquire(timeout_s=0.0)
    lock.release()
    assert (look.pid(), look.held()) == (None, False)


def test_pid_is_zero_before_the_holder_has_written_it(tmp_path: Path) -> None:
    """A lock that was taken a moment ago is held, by a process not known yet."""
    lock = node_lock(tmp_path)
    assert lock.acquire()
    os.truncate(lock.path, 0)
    assert AgentLock(lock.path).pid() == 0
    lock.release()


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


def test_a_lock_whose_file_was_replaced_is_no_longer_ours(tmp_path: Path) -> None:
    """Another agent may hold the new file."""
    lock = node_lock(tmp_path)
    assert lock.acquire()
    assert lock.still_ours()
    lock.path.unlink()
    lock.path.touch()
    assert not lock.still_ours()
    lock.release()
