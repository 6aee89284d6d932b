"""Processes by pid and start time, because the kernel reuses pids."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started here, even if its parent has ended."""

    pid: int
    start_time: str

    def alive(self) -> bool:
        """Return whether it runs; false for a zombie and for a reused pid."""
        return start_time(self.pid) == self.start_time

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def as_dict(self) -> dict[str, object]:
        """Return the form of the state file."""
        return asdict(self)


def this_process(pid: int) -> Process | None:
    """Return the process that has the pid now; None if there is none."""
    started = start_time(pid)
    return Process(pid, started) if started else None


def start_time(pid: int) -> str:
    """Return the start time of a pid in the kernel's form; empty if it does not run."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            return ""
        return "" if fields[0] in {"Z", "X"} else fields[19]  # fields 3 and 22 of proc(5)
    return _ps(pid, "lstart")


def resident_mb(pid: int) -> int:
    """Return the memory of a process in MB; 0 if it does not run."""
    return int(_ps(pid, "rss") or 0) // 1024


def _ps(pid: int, column: str) -> str:
    command = ["ps", "-o", f"{column}=", "-p", str(pid)]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def start(
    command: Sequence[str], *, log: Path, folder: Path, extra: Mapping[str, str]
) -> tuple[Process, subprocess.Popen[bytes]]:
    """Start a process that outlives this one and that no terminal can interrupt."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **extra},
            start_new_session=True,
        )
    return Process(child.pid, start_time(child.pid)), child


def stop(processes: Sequence[Process], within_s: float) -> list[Process]:
    """Send SIGTERM, and SIGKILL to those that need longer; return the killed ones.

    Blocks: up to `within_s`, and until the killed ones have ended.
    """
    for process in processes:
        process.signal(signal.SIGTERM)
    left = _wait(processes, within_s)
    return kill(left)


def kill(processes: Sequence[Process]) -> list[Process]:
    """Send SIGKILL; return the processes that were still running.

    Blocks: until they have ended, seconds at most.
    """
    there = [process for process in processes if process.alive()]
    for process in there:
        process.signal(signal.SIGKILL)
    _wait(there, 10.0)
    return there


def _wait(processes: Sequence[Process], within_s: float) -> list[Process]:
    until = time.monotonic() + within_s
    left = [process for process in processes if process.alive()]
    while left and time.monotonic() < until:
        time.sleep(POLL_S)
        left = [process for process in left if process.alive()]
    return left
