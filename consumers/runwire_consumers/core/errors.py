"""Errors of a worker, by what the worker does about them.

| raised | by | the worker |
|---|---|---|
| `DecodeError` (runwire_schemas) | codec | dead-letters the record; stops at the limit |
| `Retryable(after_s, reason)` | sink, source | waits, then tries the same batch again |
| `PiecesNeeded(pieces)` | sink | cuts the batch durably, then tries it again |
| `RowsRejected(rejections)` | sink | dead-letters those rows, writes the rest, commits |
| any other error | anywhere | logs it once, commits nothing, exits non-zero |
"""

from dataclasses import dataclass

from runwire_consumers.core.pieces import Pieces
from runwire_schemas.errors import RunwireError


class WorkerError(RunwireError):
    """Root of the errors that the workers raise on purpose."""


class Retryable(WorkerError):  # noqa: N818 - a word of the worker's vocabulary
    """The same call may succeed later without anybody's help.

    Units: `after_s` is the shortest useful wait; the worker backs off from there.
    """

    def __init__(self, after_s: float, reason: str) -> None:
        super().__init__(reason)
        self.after_s = after_s
        self.reason = reason


class PiecesNeeded(Retryable):
    """The store refused a piece of the batch of this token: cut it so, then write again."""

    def __init__(self, token: str, pieces: Pieces, reason: str) -> None:
        super().__init__(0.0, reason)
        self.token = token
        self.pieces = pieces


@dataclass(frozen=True, slots=True)
class Rejection:
    """One event or metric batch that a sink refused: its kind and its index in the batch.

    For kind "metric" the index is into `batch.metrics`, else into `batch.events[kind]`.
    """

    kind: str
    index: int
    reason: str


class RowsRejected(WorkerError):  # noqa: N818 - as above
    """The sink will never accept some rows; the others are not written yet."""

    def __init__(self, rejections: list[Rejection]) -> None:
        if not rejections:
            raise ValueError("RowsRejected needs at least one rejection")
        first = rejections[0]
        super().__init__(f"{len(rejections)} rows rejected, first: {first.kind}: {first.reason}")
        self.rejections = rejections


# What keeps one batch of a round from being written, and leaves the others alone.
Refusal = RowsRejected | Retryable


class Fatal(WorkerError):  # noqa: N818 - as above
    """A person must act: the sentence says what happened and what to do next."""


class LoginRefused(Fatal):
    """The store refused user or password; a login from a file may be renewed there."""


class DeadLetterLimit(Fatal):
    """The limit of dead letters is reached: continuing would hide a broken deploy."""


class AlreadyRunning(Fatal):
    """Another worker holds this folder."""


class SkipFlush(BaseException):
    """A second signal arrived: end at once, without a flush. Not an error of the program."""
