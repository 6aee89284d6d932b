"""Election of one agent per data root, boot, pid namespace and destination, by a file lock."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Final

from runwire_disk.files import is_locked, try_lock
from runwire_disk.host import boot_id, pid_namespace
from runwire_disk.paths import agents_dir
from runwire_disk.spool.format import LOCAL

__all__ = [
    "ACQUIRE_S",
    "KAFKA_SUFFIX",
    "LOCAL_SUFFIX",
    "AgentLock",
    "node_lock",
    "local_agents",
    "lock_path",
]

# The lock of a shipping agent is `<digest>.kafka.lock`, its state `<digest>.kafka.json`.
LOCAL_SUFFIX: Final = ".lock"
KAFKA_SUFFIX: Final = ".kafka.lock"

# A process that only asks whether an agent lives holds the lock for microseconds.
ACQUIRE_S = 1.0


def lock_path(root: Path, boot: str, namespace: str, destination: str = LOCAL) -> Path:
    """File whose lock the agent of (boot, pid namespace, destination) holds."""
    facts = "\0".join((boot, namespace, destination))
    digest = hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()
    suffix = LOCAL_SUFFIX if destination == LOCAL else KAFKA_SUFFIX
    return agents_dir(root) / f"{digest}{suffix}"


def node_lock(root: Path, destination: str = LOCAL) -> AgentLock:
    """Return the lock of the agent that serves this process's boot and pid namespace."""
    return AgentLock(lock_path(root, boot_id(), pid_namespace(), destination))


def local_agents(root: Path) -> list[int]:
    """Return the pids of the running agents of the embedded route."""
    paths = sorted(agents_dir(root).glob(f"*{LOCAL_SUFFIX}"))
    pids = (AgentLock(path).holder() for path in paths if not path.name.endswith(KAFKA_SUFFIX))
    return [pid for pid in pids if pid is not None]


class AgentLock:
    """The election of one agent. The kernel frees the lock on any kind of death."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def held(self) -> bool:
        """Tell whether an agent holds the lock now; a missing file has no holder."""
        return is_locked(self.path)

    def acquire(self, timeout_s: float = ACQUIRE_S) -> bool:
        """Take the lock and write this pid into it; false when another agent keeps it.

        Blocks: up to `timeout_s`.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + timeout_s
        while not try_lock(fd):
            if time.monotonic() >= deadline:
                os.close(fd)
                return False
            time.sleep(0.02)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        return True

    def holder(self) -> int | None:
        """Return the pid of the agent that holds the lock now, None when none does.

        0 stands for an agent that has not written its pid yet.
        """
        if not self.held():
            return None
        try:
            return int(self.path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0

    def still_ours(self) -> bool:
        """Whether the file is still the locked one; another agent may hold a new one."""
        try:
            ours, there = os.fstat(self._fd), self.path.stat()
        except OSError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

    def release(self) -> None:
        """Free the lock. In a forked child this closes only the child's copy."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
