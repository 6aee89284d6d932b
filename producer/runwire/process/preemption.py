"""Pre-emption signals (SIGTERM and others): recorded, then handled as before."""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

__all__ = ["Preemptible", "install", "uninstall"]


class Preemptible(Protocol):
    """A run as a signal handler sees it, which runs between two bytecodes, maybe inside log()."""

    def note_preemption(self, signum: int, *, final: bool) -> None:
        """Record the signal; `final`: the process dies as soon as this returns."""


_runs: weakref.WeakSet[Any] = weakref.WeakSet()
# The previous handler of each signal: SIG_DFL or a Python handler, never SIG_IGN.
_previous: dict[int, Callable[[int, FrameType | None], Any] | signal.Handlers] = {}
# Python could not restore the dispositions of these.
_NEVER = frozenset({"SIGKILL", "SIGSTOP", "SIGINT", "SIGCHLD", "SIGSEGV"})


_fork = threading.local()  # the mask of the thread that forks
_fork_hooked = False


def install(run: Preemptible, names: tuple[str, ...]) -> None:
    """Handle the named signals. Ignored ones stay ignored; only the main thread can install."""
    global _fork_hooked
    _runs.add(run)
    if not _fork_hooked:
        _fork_hooked = True
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=_after_fork_in_parent,
            after_in_child=_after_fork_in_child,
        )
    if threading.current_thread() is not threading.main_thread():
        return
    for name in names:
        signum = getattr(signal, name, None)
        if signum is None or name in _NEVER or signum in _previous:
            continue
        before = signal.getsignal(signum)
        # None: installed from C, which Python cannot restore.
        if before in (signal.SIG_IGN, None):
            continue
        try:
            signal.signal(signum, _handler)
        except (ValueError, OSError):  # a sub-interpreter, or a signal that cannot be caught
            continue
        _previous[signum] = before  # type: ignore[assignment]


def uninstall(run: Preemptible) -> None:
    """Forget `run`; with the last one, restore signals that nobody handled on top of us."""
    _runs.discard(run)
    if len(_runs) or threading.current_thread() is not threading.main_thread():
        return
    for signum, before in list(_previous.items()):
        if signal.getsignal(signum) is _handler:
            signal.signal(signum, before)
            del _previous[signum]


def _before_fork() -> None:
    """Block the signals: Python loses one that reaches a child before its interpreter is ready.

    With the default action the child would have died of it; unblocked later, it still does.
    """
    _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _previous)


def _after_fork_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)


def _after_fork_in_child() -> None:
    """Restore the handlers: a child (a DataLoader worker) owns no run, SIGTERM just ends it."""
    _runs.clear()
    for signum, before in _previous.items():
        if signal.getsignal(signum) is _handler:
            signal.signal(signum, before)
    _previous.clear()
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)


def _handler(signum: int, frame: FrameType | None) -> None:
    before = _previous.get(signum, signal.SIG_DFL)
    # A handler that replaced ours and calls it (Lightning's does) decides what happens next:
    # ending the process here would break its graceful stop.
    alone = signal.getsignal(signum) is _handler
    final = alone and not callable(before)
    for run in list(_runs):
        try:
            run.note_preemption(signum, final=final)
        except Exception:  # noqa: S112 - nothing may keep the signal from its action
            continue
    if callable(before):
        before(signum, frame)
    elif final:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
