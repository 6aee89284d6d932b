"""How fast uploads go: slowly while metrics wait, not at all once the agent ends."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Pace", "Stopped"]

# A stretch of transfer waits at most so long for metrics: a steady backlog slows uploads to a
# trickle and does not starve them.
YIELD_S_MAX = 2.0
YIELD_S = 0.05


class Stopped(Exception):  # noqa: N818 - a state of the agent
    """The agent ends; what was moved so far is noted, the next one goes on."""


class Pace:
    """Is told of every stretch of work on content, and may hold the caller back.

    Threads: any.
    """

    def __init__(self, stop: threading.Event, is_behind: Callable[[], bool] | None = None) -> None:
        self.done = 0  # bytes that stores and brokers have
        self.read = 0  # bytes worked on, so that hashing counts as progress too
        self._stop, self._is_behind = stop, is_behind
        self._lock = threading.Lock()

    def moved(self, size: int) -> None:
        """Count bytes that have arrived. Blocks: while metrics wait. Raises: Stopped."""
        with self._lock:
            self.done += size
        self.worked(size)

    def worked(self, size: int) -> None:
        """Make way for metrics, after reading for example. Blocks: so long. Raises: Stopped."""
        with self._lock:
            self.read += size
        waited_s = 0.0
        while self._is_behind is not None and waited_s < YIELD_S_MAX and self._is_behind():
            if self._stop.wait(YIELD_S):
                break
            waited_s += YIELD_S
        self.check()

    def check(self) -> None:
        """Raises: Stopped once the agent ends."""
        if self._stop.is_set():
            raise Stopped
