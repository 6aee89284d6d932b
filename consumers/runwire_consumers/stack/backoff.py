"""Pace of restarts: when a crashed child of the supervisor may start again."""

from __future__ import annotations

from runwire_consumers.core.patience import Backoff

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0  # a child that cannot start costs two attempts a minute, not a busy loop
HEALTHY_AFTER_S = 60.0


class RestartPace:
    """Doubles the wait after each crash; a minute of life resets it."""

    def __init__(self) -> None:
        self._backoff = Backoff(FIRST_DELAY_S, MAX_DELAY_S)
        self._started_at = 0.0
        self._retry_at = 0.0

    def started(self, now: float) -> None:
        """Note a start."""
        self._started_at = now

    def crashed(self, now: float) -> float:
        """Note a crash; return the delay until the next start, in seconds."""
        if now - self._started_at >= HEALTHY_AFTER_S:
            self._backoff.reset()
        delay_s = self._backoff.next_s()
        self._retry_at = now + delay_s
        return delay_s

    def may_start(self, now: float) -> bool:
        """Return whether the delay is over."""
        return now >= self._retry_at
