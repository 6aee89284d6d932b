"""Killer of processes between two system calls: ptrace through ctypes, counting stops.

Works on descendants of this process. `unavailable` returns the reason where ptrace is forbidden.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

_SEIZE, _INTERRUPT, _SYSCALL, _GETEVENTMSG = 0x4206, 0x4207, 24, 0x4201
_TRACESYSGOOD, _TRACECLONE = 1, 8
_EVENT_CLONE = 3
_WALL = 0x40000000
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    if _libc.ptrace(request, pid, None, data) == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, f"ptrace({request}): {os.strerror(errno)}")


def run_until(pid: int, release: Callable[[], None], kill_at: int | None) -> int:
    """Trace all threads of `pid` from `release()` on; SIGKILL at the `kill_at`-th system call.

    Returns the number of calls begun before it ended. The call at which it is killed does not run.
    """
    _ptrace(_SEIZE, pid, _TRACESYSGOOD | _TRACECLONE)
    _ptrace(_INTERRUPT, pid)
    threads: dict[int, bool] = {pid: False}  # whether it is inside a call
    begun, is_released = 0, False
    while threads:
        found, status = _next_stop(threads)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            threads.pop(found, None)
            if found == pid:
                return begun
            continue
        stop, event, deliver = os.WSTOPSIG(status), status >> 16, 0
        if stop == _SYSCALL_STOP:
            threads[found] = not threads[found]
            begun += threads[found]
            if threads[found] and begun == kill_at:
                os.kill(pid, signal.SIGKILL)
        elif event == _EVENT_CLONE:
            threads[_message(found)] = False
        elif event == 0:
            deliver = stop
        with contextlib.suppress(ProcessLookupError):
            _ptrace(_SYSCALL, found, deliver)
        if not is_released:
            is_released = True
            release()
    return begun


def _next_stop(threads: dict[int, bool]) -> tuple[int, int]:
    """Wait for a stop of these threads only, not of other children."""
    if len(threads) == 1:
        return os.waitpid(next(iter(threads)), _WALL)
    while True:
        for thread in list(threads):
            try:
                found, status = os.waitpid(thread, _WALL | os.WNOHANG)
            except ChildProcessError:  # a thread that ended with its process
                threads.pop(thread)
                continue
            if found:
                return found, status
        time.sleep(0.0001)


def _message(thread: int) -> int:
    value = ctypes.c_ulong()
    if _libc.ptrace(_GETEVENTMSG, thread, None, ctypes.addressof(value)) == -1:
        raise OSError(ctypes.get_errno(), "ptrace(GETEVENTMSG)")
    return value.value


def unavailable() -> str | None:
    """The reason why ptrace does not work here, None if it does."""
    if not sys.platform.startswith("linux"):
        return "ptrace by this module needs Linux"
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert child.stdin is not None
    try:
        run_until(child.pid, child.stdin.close, None)
    except OSError as error:
        return f"ptrace is forbidden here: {error}"
    finally:
        child.kill()
        child.wait()
    return None
