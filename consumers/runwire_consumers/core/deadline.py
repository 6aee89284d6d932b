"""One budget for a whole shutdown, handed down the chain."""

from runwire_consumers.core.clock import Clock, SystemClock


class Deadline:
    """A moment after which nobody waits any longer."""

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
