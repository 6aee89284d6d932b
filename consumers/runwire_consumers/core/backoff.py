"""How long to wait between tries of the same batch."""


class Backoff:
    """Doubles from `first_s` to `max_s`; what the failure asks for is the least, within the max."""

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._next_s = first_s

    def next_s(self, asked_s: float) -> float:
        """Return the next wait."""
        wait_s = min(self._max_s, max(asked_s, self._next_s))
        self._next_s = min(self._max_s, self._next_s * 2)
        return wait_s

    def reset(self) -> None:
        """Begin again after a success."""
        self._next_s = self._first_s
