"""Facts about this host and its processes, read from /proc; elsewhere the nearest substitute."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Launcher",
    "boot_id",
    "count_children",
    "find_launcher",
    "hostname",
    "pid_namespace",
    "process_start",
]

PROC = Path("/proc")
# Shells, wrappers and profilers between a rank and its launcher; deeper means a loop.
ANCESTORS_MAX = 32


@dataclass(frozen=True, slots=True)
class Launcher:
    """The process that started all ranks of this node, told apart from reused pids."""

    pid: int
    start: str


def hostname() -> str:
    """Name of this host as the kernel knows it."""
    return os.uname().nodename


def boot_id(proc: Path = PROC) -> str:
    """Random id of this boot; without /proc, a name that at least separates hosts."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"host:{hostname()}"


def pid_namespace(proc: Path = PROC) -> str:
    """Name of the pid namespace, which separates containers; "" where there are none."""
    try:
        return os.readlink(proc / "self/ns/pid")  # noqa: PTH115 - the target is text, no path
    except OSError:
        return ""


def process_start(pid: int, proc: Path = PROC) -> str | None:
    """Start time of a process in clock ticks since boot; None when it is gone or not Linux."""
    stat = _stat(pid, proc)
    return stat[1] if stat else None


def find_launcher(
    marker: str, *, pid: int | None = None, proc: Path = PROC, itself: bool = False
) -> Launcher | None:
    """Nearest ancestor whose initial environment lacks `marker`, the launcher's variable.

    A shell or profiler between launcher and rank carries the variable, so it is passed over.
    An ancestor whose environment may not be read belongs to another user: it is the launcher.
    With `itself` the search begins at the process, which may have started the other ranks.
    """
    if itself:
        current: int | None = os.getpid() if pid is None else pid
    else:
        current = os.getppid() if pid is None else _parent(pid, proc)
    for _ in range(ANCESTORS_MAX):
        if current is None or current <= 0:
            return None
        if not _carries(current, marker, proc):
            start = process_start(current, proc)
            return Launcher(current, start) if start is not None else None
        current = _parent(current, proc)
    return None


def count_children(pid: int, proc: Path = PROC) -> int:
    """Return how many living children a process has; 0 where the kernel does not list them."""
    try:
        lists = [path.read_text(encoding="ascii") for path in proc.glob(f"{pid}/task/*/children")]
    except OSError:
        return 0  # it ended, or belongs to another user
    return sum(len(text.split()) for text in lists)


def _stat(pid: int, proc: Path) -> tuple[int, str] | None:
    """(parent pid, start time). The command field may hold spaces and parentheses."""
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    after = text[text.rfind(")") + 2 :].split()
    if len(after) < 20:
        return None
    return int(after[1]), after[19]


def _parent(pid: int, proc: Path) -> int | None:
    stat = _stat(pid, proc)
    return stat[0] if stat else None


def _carries(pid: int, marker: str, proc: Path) -> bool:
    if not marker:
        return False
    try:
        environ = (proc / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    name = marker.encode() + b"="
    return any(entry.startswith(name) for entry in environ.split(b"\0"))
