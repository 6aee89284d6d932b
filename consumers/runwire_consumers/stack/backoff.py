"""When a crashed child may start again."""

from __future__ import annotations

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0  # a child that cannot start costs two attempts a minute, not a busy loop
HEALTHY_AFTER_S = 60.0


class Backoff:
    """Doubles the wait after each crash; a minute of life forgets the past."""

    def __init__(self) -> None:
        self._delay_s = 0.0
        self._started_at = 0.0
        self._retry_at = 0.0

    def started(self, now: float) -> None:
        """Note a start."""
        self._started_at = now

    def crashed(self, now: float) -> float:
        """Note a crash; the delay until the next start, in seconds."""
        if now - self._started_at >= HEALTHY_AFTER_S:
            self._delay_s = 0.0
        self._delay_s = min(max(FIRST_DELAY_S, self._delay_s * 2), MAX_DELAY_S)
        self._retry_at = now + self._delay_s
        return self._delay_s

    def may_start(self, now: float) -> bool:
        """Whether the delay is over."""
        return now >= self._retry_at
