"""One stack per data folder: an flock whose file names the holder.

The kernel frees the lock when the supervisor dies, however it dies, so no lock is ever stale.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from runwire_disk import paths
from runwire_disk.files import try_lock

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Holder:
    """The supervisor that holds a folder; `created_at` distinguishes its pid from a reused one."""

    pid: int
    created_at: float


def lock_file(root: Path) -> Path:
    """Return the path of the lock of this data folder."""
    return paths.embedded_dir(root) / "stack.lock"


def acquire(root: Path, timeout_s: float) -> int | None:
    """Take the lock and write our pid into it; None when another supervisor keeps it.

    Blocks: at most `timeout_s`; a probe by `holder` or a dying predecessor frees it soon.
    """
    fd = os.open(lock_file(root), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + timeout_s
    while not try_lock(fd):
        if time.monotonic() > deadline:
            os.close(fd)
            return None
        time.sleep(POLL_S)
    me = {"pid": os.getpid(), "created_at": psutil.Process().create_time()}
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(me).encode(), 0)
    return fd


def holder(root: Path) -> Holder | None:
    """Return the supervisor that runs the stack of this folder; None when there is none."""
    try:
        fd = os.open(lock_file(root), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        for _ in range(40):  # a new holder writes its pid a moment after it has the lock
            if try_lock(fd):
                return None
            written = _parse(os.pread(fd, 4096, 0))
            if written is not None and alive(written):
                return written
            time.sleep(POLL_S)
    finally:
        os.close(fd)
    return None


def alive(holder: Holder) -> bool:
    """Whether exactly this process still runs."""
    try:
        process = psutil.Process(holder.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return bool(abs(process.create_time() - holder.created_at) < 1.0)
    except psutil.Error:
        return False


def _parse(content: bytes) -> Holder | None:
    try:
        fields = json.loads(content)
        return Holder(pid=int(fields["pid"]), created_at=float(fields["created_at"]))
    except (ValueError, KeyError, TypeError):
        return None
