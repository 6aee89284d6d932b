"""The thread of an asynchronous save: one at a time, waited for by all that comes after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["SavingThread"]

_POLL_S = 0.002


class SavingThread:
    """Runs one piece of work at a time in a short-lived thread.

    Threads: the caller holds a reentrant lock; a signal handler of its own thread may come in
    between any two instructions, and may raise.
    """

    def __init__(self) -> None:
        self._thread: _Thread | None = None
        self._is_joining = False

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` after the one under way; in this call where no thread can be started.

        The process does not end before it is done.
        """
        is_begun = False
        while not is_begun:
            self.join()
            # Known before it runs: an interrupt must not leave it unnoticed.
            thread = self._thread = _Thread(work)
            try:
                thread.start()
            except RuntimeError:  # no more threads, or the interpreter is about to end
                self._thread = None
                work()
                return
            is_begun = not thread.is_cancelled  # by a signal handler that saved meanwhile

    def join(self, wait_s: float | None = None) -> bool:
        """Wait for the work under way, if any; return whether it is done.

        Blocks: until it is done, at most `wait_s` seconds.
        """
        end_s = float("inf") if wait_s is None else time.monotonic() + wait_s
        while (thread := self._thread) is not None:
            if thread.ident is None and thread.cancel():
                pass  # a signal handler came before it began
            elif self._is_joining:
                # A signal handler that interrupted the join below: another one may never return.
                while not thread.is_over:
                    if time.monotonic() >= end_s:
                        return False
                    time.sleep(_POLL_S)
            else:
                self._is_joining = True
                try:
                    thread.join(None if wait_s is None else max(0.0, end_s - time.monotonic()))
                finally:
                    self._is_joining = False
                if thread.is_alive():
                    return False
            if self._thread is thread:  # else a signal handler has begun another meanwhile
                self._thread = None
        return True


class _Thread(threading.Thread):
    """A thread that can be cancelled before it begins.

    `is_over` needs no lock, so a signal handler may poll it.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        # Not a daemon: the interpreter waits for it, so that a script's last save is whole.
        super().__init__(name="runwire-checkpoint", daemon=False)
        self._work, self.is_over, self.is_cancelled = work, False, False
        self._tokens = [None]  # whoever pops it decides, at once and without a lock

    def run(self) -> None:
        try:
            if self._pop():
                self._work()
        finally:
            self.is_over = True

    def cancel(self) -> bool:
        """Keep the thread from working; false if it has begun."""
        self.is_cancelled = self._pop()
        return self.is_cancelled

    def _pop(self) -> bool:
        try:
            self._tokens.pop()
        except IndexError:
            return False
        return True
