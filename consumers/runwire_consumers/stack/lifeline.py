"""Runs a module so that it dies with its parent: `python -m ...lifeline PID SIGNAL MODULE ARGS`.

Linux: the kernel sends the signal (PR_SET_PDEATHSIG). Elsewhere a thread watches the parent's pid.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h
POLL_S = 0.5


def tie_to_parent(parent_pid: int, signum: int) -> None:
    """Make this process receive `signum` when its parent dies; exits at once if it has."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    else:
        watch = threading.Thread(target=_watch, args=(parent_pid, signum), daemon=True)
        watch.start()
    if os.getppid() != parent_pid:  # it died before the kernel was asked
        sys.exit(f"the parent {parent_pid} is gone; not starting")


def _watch(parent_pid: int, signum: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signum)


def command(module: str, *arguments: str, signum: signal.Signals) -> list[str]:
    """The command line that runs `module` tied to the calling process."""
    own = "runwire_consumers.stack.lifeline"
    tied = [sys.executable, "-m", own, str(os.getpid()), str(int(signum))]
    return [*tied, module, *arguments]


def main() -> None:
    """Tie, then become the module."""
    parent_pid, signum, module = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    tie_to_parent(parent_pid, signum)
    sys.argv = sys.argv[3:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
