"""SIGTERM and friends: note the pre-emption, then let happen what would have happened anyway."""

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
    """What a signal handler needs from a run; it runs between two bytecodes, maybe inside log()."""

    def _note_preemption(self, signum: int, *, final: bool) -> None: ...


_runs: weakref.WeakSet[Any] = weakref.WeakSet()
# What each signal did before us: SIG_DFL or a Python handler, never SIG_IGN.
_previous: dict[int, Callable[[int, FrameType | None], Any] | signal.Handlers] = {}
# Dispositions of these could not be put back by Python if we took them.
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
        # None: installed from C, nothing that Python could restore.
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
    """Python forgets a signal that reaches a child before its interpreter is ready.

    With the default action such a child would have died; held back, it still does.
    """
    _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _previous)


def _after_fork_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)


def _after_fork_in_child() -> None:
    """A child (a DataLoader worker) owns no run: it dies of SIGTERM as if we were not here."""
    _runs.clear()
    for signum, before in _previous.items():
        if signal.getsignal(signum) is _handler:
            signal.signal(signum, before)
    _previous.clear()
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)


def _handler(signum: int, frame: FrameType | None) -> None:
    before = _previous.get(signum, signal.SIG_DFL)
    # Somebody who replaced our handler and calls us from theirs (Lightning does) decides alone
    # what happens next; ending the process here would break their graceful stop.
    alone = signal.getsignal(signum) is _handler
    final = alone and not callable(before)
    for run in list(_runs):
        try:
            run._note_preemption(signum, final=final)  # noqa: SLF001 - the protocol
        except Exception:  # noqa: S112 - nothing may keep the signal from its action
            continue
    if callable(before):
        before(signum, frame)
    elif final:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
