"""HTTP proxy that refuses every request from the n-th on, as if its client had been killed."""

from __future__ import annotations

from collections.abc import Callable

from support.body_limit import BodyLimit

FAR = 2**62


class RequestCut(BodyLimit):
    """Forwards to the server of `target()`, and refuses all once `steps` reaches `last`.

    Others may count steps too, so that one number orders requests and, say, calls of a store.
    """

    def __init__(self, target: Callable[[], str]) -> None:
        self.steps = 0
        self.last = FAR
        super().__init__(target, FAR)

    @property
    def limit(self) -> int:  # type: ignore[override]
        """Bytes that the next request may have: none after the last step."""
        return FAR if self.step() else -1

    @limit.setter
    def limit(self, limit: int) -> None:
        """Take the limit of the base class, which is none."""

    def step(self) -> bool:
        """Count a step; whether it may be done."""
        self.steps += 1
        return self.steps <= self.last
