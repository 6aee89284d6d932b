"""The watching agent, as far as the stack starts it: when trainers live and none watches them.

Only trainers of the embedded route: whose points go to Kafka start an agent that ships them.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

from runwire_consumers.stack.logs import open_log
from runwire_consumers.stack.uploads import waiting
from runwire_disk import paths
from runwire_disk.agents.lock import KAFKA_SUFFIX, LOCAL_SUFFIX
from runwire_disk.spool.format import ENDED_FILE, LOCAL, SpoolError
from runwire_disk.spool.reader import list_folders, read_meta, writer_alive


def live_trainers(root: Path) -> list[str]:
    """Run ids of the trainers that hold their writer lock now."""
    found = []
    for folder in list_folders(root):
        try:
            meta = read_meta(folder)
        except (OSError, SpoolError):
            continue  # a folder being removed, or one that `spool verify` reports
        if meta.role == "trainer" and meta.route == LOCAL and writer_alive(folder):
            found.append(meta.run_id)
    return found


def has_work(root: Path) -> bool:
    """Whether a trainer lives or an artifact waits that an agent from here would ship."""
    is_waiting = any(request.is_served(os.environ) for request in waiting(root))
    return is_waiting or bool(live_trainers(root))


def _needed(root: Path) -> bool:
    """Whether there is work, or a trainer that ended without an agent that took note."""
    if any(request.is_served(os.environ) for request in waiting(root)):
        return True
    for folder in list_folders(root):
        try:
            meta = read_meta(folder)
            is_ours = meta.role == "trainer" and meta.route == LOCAL
            if is_ours and not (folder / ENDED_FILE).exists():
                return True
        except (OSError, SpoolError):
            continue
    return False


def running(root: Path) -> list[int]:
    """Pids of the local agents that hold a lock of this data folder."""
    files = sorted(paths.agents_dir(root).glob(f"*{LOCAL_SUFFIX}"))
    pids = (holder(file) for file in files if not file.name.endswith(KAFKA_SUFFIX))
    return [pid for pid in pids if pid is not None]


def holder(file: Path) -> int | None:
    """Pid of the agent that holds this lock (0 before it said so), None when nobody does."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        digits = re.search(rb"\d+", os.pread(fd, 4096, 0))
        return int(digits[0]) if digits else 0
    finally:
        os.close(fd)
    return None


def ensure(root: Path) -> bool:
    """Start an agent if there is something to watch, record or ship; whether it was started.

    It ends by itself when idle, or when another one was faster.
    """
    if running(root) or not _needed(root):
        return False
    log = open_log(paths.agents_dir(root) / "agent.log")
    try:
        subprocess.Popen(
            [sys.executable, "-m", "runwire_agent", "--dir", str(root), "--exit-when-idle"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            env=_local_environment() | {"RUNWIRE_DIR": str(root)},
        )
    finally:
        os.close(log)
    return True


def _local_environment() -> dict[str, str]:
    """The environment without brokers, which would make it a shipping agent."""
    return {n: v for n, v in os.environ.items() if not n.startswith("RUNWIRE_KAFKA_")}
