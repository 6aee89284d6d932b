"""One agent per data root, boot, pid namespace and destination: a file lock elects it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from pathlib import Path

from runwire_disk.host import boot_id, pid_namespace
from runwire_disk.paths import agents_dir
from runwire_disk.spool.destination import KAFKA_SUFFIX, LOCAL, LOCAL_SUFFIX

__all__ = ["ACQUIRE_S", "AgentLock", "node_lock", "local_agents", "lock_path"]

# A process that only checks for an agent holds the lock for microseconds.
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
    pids = (AgentLock(path).pid() for path in paths if not path.name.endswith(KAFKA_SUFFIX))
    return [pid for pid in pids if pid is not None]


class AgentLock:
    """The election of one agent. The kernel frees the lock on any kind of death."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def held(self) -> bool:
        """Whether some process holds the lock now; a missing file means that none does."""
        return self._probe() is not None

    def pid(self) -> int | None:
        """Return the pid of the process that holds the lock, 0 before it wrote it; else None."""
        try:
            return self._probe()
        except OSError:
            return None  # a data root of another user

    def _probe(self) -> int | None:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            digits = re.search(rb"\d+", os.pread(fd, 4096, 0))
            return int(digits[0]) if digits else 0
        finally:
            os.close(fd)
        return None

    def acquire(self, timeout_s: float = ACQUIRE_S) -> bool:
        """Take the lock and write who holds it. Blocks: up to `timeout_s`."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(fd)
                    return False
                time.sleep(0.02)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        return True

    def holder(self) -> str:
        """Pid that the holder wrote, as text for a message."""
        try:
            return self.path.read_text(encoding="ascii").strip() or "unknown"
        except OSError:
            return "unknown"

    def still_ours(self) -> bool:
        """False once the file was deleted or replaced: another agent may hold a new one."""
        try:
            ours, there = os.fstat(self._fd), self.path.stat()
        except OSError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

    def release(self) -> None:
        """Let the next agent in. In a forked child this frees only the child's copy."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
