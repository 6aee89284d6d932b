"""What the read side raises for a failure that a user can act on."""

from __future__ import annotations


class QueryError(RuntimeError):
    """An expected failure: the text says what happened, to what, and what to do next."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
