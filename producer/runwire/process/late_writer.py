"""Late opening of a writer, in a process that inherited its run through a fork or by pickling."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from runwire.errors import RunwireError

__all__ = ["LateWriter"]


class Inherited(Protocol):
    """A session that was inherited from another process."""

    log: Callable[..., None]

    def is_waiting_for(self, late: LateWriter) -> bool:
        """Return whether its writer has still to be opened by `late`."""

    def open_as_worker(self, late: LateWriter) -> None:
        """Open a writer of this process; `late` is not needed afterwards, even if that failed."""


class LateWriter:
    """Opens the writer of an inherited session when that logs for the first time. Threads: safe."""

    def __init__(self, session: Inherited, *, is_forbidden: bool) -> None:
        self._session, self._is_forbidden = session, is_forbidden
        # Reentrant: a signal handler may log while it interrupts the opening.
        self._lock = threading.RLock()
        self._is_opening = False

    def open(self) -> bool:
        """Open the writer once; false for a signal handler that interrupts the opening.

        Raises: RunwireError where children must not log.
        """
        if self._is_forbidden:
            raise RunwireError(
                "this forked child logs to its parent's run, which fork_policy='raise' forbids"
            )
        with self._lock:
            if self._is_opening:
                return False
            if self._session.is_waiting_for(self):
                try:
                    self._is_opening = True
                    self._session.open_as_worker(self)
                finally:
                    self._is_opening = False
        return True

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Log as the session does once its writer is open."""
        if self.open():
            self._session.log(*args, **kwargs)
