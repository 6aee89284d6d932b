"""Where requests go, and what keeps those of one way from going there now."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from runwire_agent.upload.errors import NotNow
from runwire_disk.outbox.request import UploadRequest
from runwire_disk.outbox.requests import Claim
from runwire_schemas.events import ArtifactEvent

__all__ = ["Lane", "Route"]

REST_S, REST_S_MAX = 1.0, 30.0


class Route(Protocol):
    """One way to a store. Threads: one."""

    def lane(self, request: UploadRequest) -> str | None:
        """Return the name of the way that a request shares with others; None when it has none."""
        ...

    def ship(self, claim: Claim, tell: Callable[[ArtifactEvent], None]) -> None:
        """Bring an artifact there; `tell` is given what has to be recorded of it.

        Raises: NotNow, UploadFailed, Stopped; OSError when content cannot be read.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...

    def abandon(self) -> None:
        """Forget connections that are those of a parent process."""
        ...


@dataclass(slots=True)
class Lane:
    """Requests of one way rest together while it is in trouble, a little longer each time."""

    cause: str = ""
    sentence: str = ""
    since_ns: int = 0
    until_s: float = 0.0
    rest_s: float = REST_S

    def rest(self, why: NotNow, now_s: float) -> bool:
        """Rest for a while; tell whether this cause is new."""
        is_new = self.cause != why.kind
        if is_new:
            self.since_ns = time.time_ns()
            self.rest_s = REST_S
        self.cause, self.sentence = why.kind, str(why)
        self.until_s = now_s + self.rest_s
        self.rest_s = min(REST_S_MAX, 2 * self.rest_s)
        return is_new

    def works(self) -> bool:
        """Note that something arrived; tell whether that is news."""
        was_resting, self.cause, self.sentence = bool(self.cause), "", ""
        self.since_ns, self.until_s, self.rest_s = 0, 0.0, REST_S
        return was_resting
