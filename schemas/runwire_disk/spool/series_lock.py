"""Lock of a series that an exception cannot leave held.

Ctrl-C can strike between the call that takes a lock and the `try` that would free it, and a
`with` has such gaps too where a trace function raises. The lock would then be held for ever.
Here a lock counts as held only while a frame of some thread may hold it: who waits for it looks at
the stacks of all threads, and replaces it once no such frame is left.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, Final, Protocol, TypeVar

__all__ = ["WAIT_S", "Locked", "SeriesLock", "holds_series"]

# How long a call waits for another thread. That holds the lock for microseconds, or while it opens
# a segment; a disk that hangs for longer must not hang everybody.
WAIT_S: Final = 5.0
# Before the first look at the stacks: an ordinary wait ends sooner, and a look costs the others.
_LOOK_INTERVAL_S: Final = 0.01

_F = TypeVar("_F", bound=Callable[..., Any])
_holders: set[CodeType] = set()


class Locked(Protocol):
    """A series as its lock sees it: who holds the lock replaces `state` by a new object."""

    state: tuple[int, int, int, int]


def holds_series(function: _F) -> _F:
    """Declare that a function takes the lock of the series in its variable `series`."""
    _holders.add(function.__code__)
    return function


class SeriesLock:
    """The lock of one series. `inner` is free or held now; the hot path takes that directly.

    Threads: safe; also from signal handlers.
    """

    def __init__(self, series: Locked) -> None:
        self.inner = threading.Lock()
        self._series = series
        # Locks that were left held, with the one that replaces each: all threads agree on it.
        self._successors: dict[threading.Lock, threading.Lock] = {}

    def take(self, wait_s: float = WAIT_S) -> threading.Lock | None:
        """Take the lock and return it for its release; None when it cannot be had.

        That is when a frame of this very thread may hold it further up (a signal handler
        interrupted it: waiting would never end), or another thread for `wait_s`.
        """
        inner = self.inner
        if inner.acquire(False):
            return inner
        if self.is_own():
            return None
        end_s = time.monotonic() + wait_s
        while True:
            state = self._series.state
            if inner.acquire(timeout=_LOOK_INTERVAL_S):
                if inner is self.inner:
                    return inner
                inner.release()  # replaced meanwhile
            elif self._is_left_held(inner, state):
                self.inner = self._successors.setdefault(inner, threading.Lock())
            elif time.monotonic() >= end_s:
                return None
            inner = self.inner

    def is_own(self) -> bool:
        """Tell whether the calling thread may hold the lock, further up than in its caller."""
        frame = sys._getframe(1)  # noqa: SLF001 - the way to see one's callers
        return self._may_hold(frame, is_waiting=True)

    def _is_left_held(self, inner: threading.Lock, state: tuple[int, ...]) -> bool:
        """Tell whether `inner` is held by nobody.

        A holder that came after the first look and went before the second has changed the state.
        """
        return (
            not self._is_in_use()
            and inner.locked()
            and not self._is_in_use()
            and self._series.state is state
        )

    def _is_in_use(self) -> bool:
        frames = sys._current_frames().values()  # noqa: SLF001 - the way to see other threads
        return any(map(self._may_hold, frames))

    def _may_hold(self, top: FrameType, *, is_waiting: bool = False) -> bool:
        for frame in _callers(top):
            if frame.f_code is SeriesLock.take.__code__:
                is_waiting = is_waiting or frame.f_locals.get("self") is self
            elif frame.f_code in _holders and frame.f_locals.get("series") is self._series:
                if not is_waiting:
                    return True
                is_waiting = False  # the caller of that `take` does not hold it
        return False


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
