"""The contract between the uploader and its transports: protocol, errors, pace and back-off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from runwire_disk.outbox.request import UploadRequest
from runwire_disk.outbox.requests import Claim
from runwire_schemas.errors import RunwireError
from runwire_schemas.events import ArtifactEvent

__all__ = [
    "OTHER_STORE",
    "STORE_AWAY",
    "STORE_REFUSED",
    "UNEXPECTED",
    "NotNow",
    "Pace",
    "Stopped",
    "Tell",
    "Transport",
    "UploadBackoff",
    "UploadFailed",
]

# Causes in an agent's state; those of the Kafka route are defined in `ship.broker`.
STORE_AWAY: Final = "store_away"
STORE_REFUSED: Final = "store_refused"
OTHER_STORE: Final = "other_store"
UNEXPECTED: Final = "unexpected"
# Uploads yield to metrics at most this long at a time, so a steady backlog of metrics slows them to
# a trickle but does not starve them.
YIELD_S_MAX = 2.0
YIELD_S = 0.05
# Pause after a failure, first and at most.
BACKOFF_S, BACKOFF_S_MAX = 1.0, 30.0

Tell = Callable[[ArtifactEvent], None]
"""Takes an event that the agent has to record about an artifact."""


class UploadError(RunwireError):
    """The reason why a request stays in the outbox or leaves it as failed."""


class UploadFailed(UploadError):  # noqa: N818 - a verdict on the artifact
    """The artifact can never be uploaded: its content is gone or damaged."""


class NotNow(UploadError):  # noqa: N818 - a state of the world
    """The upload has to be tried again later; `kind` is a cause, the message a sentence."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


class Stopped(Exception):  # noqa: N818 - a state of the agent
    """The agent is ending; the progress is noted, and the next agent resumes."""


class Transport(Protocol):
    """Uploads the requests of one route. Threads: one."""

    def backoff_key(self, request: UploadRequest) -> str | None:
        """Return the key of the back-off that a request shares; None if it cannot be uploaded."""
        ...

    def upload(self, claim: Claim, tell: Tell) -> None:
        """Upload an artifact; `tell` gets the events to record.

        Raises: NotNow, UploadFailed, Stopped; OSError when content cannot be read.
        """
        ...

    def close(self) -> None:
        """Close connections."""
        ...

    def abandon(self) -> None:
        """Drop connections without closing them: they belong to the parent process."""
        ...


class Pace:
    """Counts the bytes of uploads, and makes them yield to metrics and stop. Threads: any."""

    def __init__(self, stop: threading.Event, is_behind: Callable[[], bool] | None = None) -> None:
        self.done = 0  # bytes that stores and brokers have
        self.read = 0  # bytes processed, so that hashing counts as progress too
        self._stop, self._is_behind = stop, is_behind
        self._lock = threading.Lock()

    def moved(self, size: int) -> None:
        """Count bytes that have arrived. Blocks: while metrics wait. Raises: Stopped."""
        with self._lock:
            self.done += size
        self.worked(size)

    def worked(self, size: int) -> None:
        """Count bytes that were read. Blocks: while metrics wait. Raises: Stopped."""
        with self._lock:
            self.read += size
        waited_s = 0.0
        while self._is_behind is not None and waited_s < YIELD_S_MAX and self._is_behind():
            if self._stop.wait(YIELD_S):
                break
            waited_s += YIELD_S
        self.check()

    def check(self) -> None:
        """Raises: Stopped once the agent is ending."""
        if self._stop.is_set():
            raise Stopped


@dataclass(slots=True)
class UploadBackoff:
    """The pause after a failure, shared by requests to one store; it doubles each time."""

    cause: str = ""
    sentence: str = ""
    since_ns: int = 0
    until_s: float = 0.0
    pause_s: float = BACKOFF_S

    def note_failure(self, why: NotNow, now_s: float) -> bool:
        """Start the next pause; return whether this cause is new."""
        is_new = self.cause != why.kind
        if is_new:
            self.since_ns = time.time_ns()
            self.pause_s = BACKOFF_S
        self.cause, self.sentence = why.kind, str(why)
        self.until_s = now_s + self.pause_s
        self.pause_s = min(BACKOFF_S_MAX, 2 * self.pause_s)
        return is_new

    def note_success(self) -> bool:
        """End the back-off; return whether there was one."""
        was_failing, self.cause, self.sentence = bool(self.cause), "", ""
        self.since_ns, self.until_s, self.pause_s = 0, 0.0, BACKOFF_S
        return was_failing
