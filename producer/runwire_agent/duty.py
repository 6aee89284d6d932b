"""The jobs of an agent: the `Duty` protocol, its memory twin, and the patience they share."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["STAY_S", "Duty", "MemoryDuty", "Stay"]

STAY_S = 600.0


class Stay:
    """The time that an agent stays: for the next trainer, and for deliveries without progress.

    The watch duty notes living trainers here; every duty may ask. Threads: the agent's.
    """

    def __init__(self, *, idle_s: float | None = None, stay_s: float = STAY_S) -> None:
        self.stay_s = stay_s
        self._idle_s = idle_s
        self.trainer_at_s = time.monotonic()  # when a trainer last lived

    def is_idle(self, now_s: float) -> bool:
        """Whether no trainer has lived for `idle_s`; never when that is None."""
        return self._idle_s is not None and now_s - self.trainer_at_s >= self._idle_s

    def is_over(self, progress_s: float, now_s: float) -> bool:
        """Whether neither trainer nor progress was seen for `stay_s`: there is no hope."""
        return now_s - max(self.trainer_at_s, progress_s) >= self.stay_s


class Duty(Protocol):
    """One job of the agent, driven by its loop: `tick`, `rest`, `tick`, ... until `end`.

    A duty keeps no promise in memory: killed at any moment, the next agent's duty resumes from
    the disk. Threads: the agent's own for every method.
    """

    def tick(self, now_s: float, *, is_last: bool = False) -> None:
        """Do everything due now; on the last tick also what would be due soon.

        Raises: nothing for a fault of one folder or request; the others are served.
        """
        ...

    def rest(self, until_s: float, stop: threading.Event) -> None:
        """Use the loop's idle time. Blocks: at most until `until_s`, or until `stop` is set."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """Return the fields of `AgentState` that this duty fills."""
        ...

    def may_end(self, now_s: float) -> bool:
        """Whether an agent without trainers has nothing left to do, or no hope to do it."""
        ...

    def is_needed(self) -> bool:
        """Look afresh whether a living trainer of this agent needs the duty."""
        ...

    def flush(self, deadline_s: float) -> bool:
        """Deliver everything present; whether that succeeded. Blocks: until then."""
        ...

    def end(self, deadline_s: float) -> None:
        """Deliver until the deadline, leave the rest to the next agent, close everything.

        Blocks: until the deadline.
        """
        ...

    def abandon(self) -> None:
        """Forget everything in a forked child: files and connections belong to the parent."""
        ...


class MemoryDuty:
    """A duty that does the jobs in `waiting`, one per tick, unless `is_blocked`."""

    def __init__(self, stay: Stay) -> None:
        self.waiting: list[str] = []
        self.done: list[str] = []
        self.is_blocked = False
        self.has_trainer = False
        self.is_ended = False
        self._stay = stay
        self._progress_s = time.monotonic()

    def tick(self, now_s: float, *, is_last: bool = False) -> None:
        """Do the next job."""
        if self.has_trainer:
            self._stay.trainer_at_s = now_s
        if self.waiting and not self.is_blocked:
            self.done.append(self.waiting.pop(0))
            self._progress_s = now_s

    def rest(self, until_s: float, stop: threading.Event) -> None:
        """Return at once: this duty needs no idle time."""

    def facts(self) -> Mapping[str, Any]:
        """Return the number of finished jobs as deliveries."""
        return {"delivered": len(self.done)}

    def may_end(self, now_s: float) -> bool:
        """Whether no job waits, or none got done for too long."""
        return not self.waiting or self._stay.is_over(self._progress_s, now_s)

    def is_needed(self) -> bool:
        """Whether `has_trainer` is set."""
        return self.has_trainer

    def flush(self, deadline_s: float) -> bool:
        """Do all jobs."""
        while self.waiting and not self.is_blocked:
            self.tick(time.monotonic())
        return not self.waiting

    def end(self, deadline_s: float) -> None:
        """Do all jobs and close."""
        self.flush(deadline_s)
        self.is_ended = True

    def abandon(self) -> None:
        """Leave the jobs to the parent."""
        self.is_ended = True
