"""Clocks and deadlines, handed in so that tests own the time."""

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for stamps, monotonic time for waiting."""

    def unix_ns(self) -> int:
        """Return nanoseconds since the epoch, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that only move forward."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait. Blocks: `seconds`."""
        ...


class SystemClock:
    """The clock of this machine."""

    def unix_ns(self) -> int:
        """Return nanoseconds since the epoch, UTC."""
        return time.time_ns()

    def monotonic_s(self) -> float:
        """Return seconds that only move forward."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait. Blocks: `seconds`."""
        time.sleep(max(0.0, seconds))


class MemoryClock:
    """A clock that moves only by `advance`, and by `sleep` without waiting."""

    def __init__(self, unix_ns: int = 1_700_000_000_000_000_000) -> None:
        self._unix_ns = unix_ns
        self._monotonic_s = 0.0

    def unix_ns(self) -> int:
        """Return nanoseconds since the epoch, UTC."""
        return self._unix_ns

    def monotonic_s(self) -> float:
        """Return seconds that only move forward."""
        return self._monotonic_s

    def sleep(self, seconds: float) -> None:
        """Move the clock by `seconds` at once."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move both times forward."""
        self._monotonic_s += seconds
        self._unix_ns += int(seconds * 1e9)


class Deadline:
    """The end of one time budget, handed down a whole shutdown."""

    def __init__(self, seconds: float, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._end_s = self._clock.monotonic_s() + seconds

    @property
    def left_s(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._end_s - self._clock.monotonic_s())

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.left_s <= 0.0
