"""What can go wrong in a worker, in the words the worker acts on.

| raised | by | the worker |
|---|---|---|
| `DecodeError` (runwire_schemas) | codec | dead-letters the record, goes on; stops at the limit |
| `Retryable(after_s, reason)` | sink, source | pauses, same batch again; commits nothing |
| `RowsRejected(rejections)` | sink | dead-letters those rows, writes the rest, commits |
| anything else | anywhere | logs once, commits nothing, exits non-zero |
"""

from dataclasses import dataclass

from runwire_schemas.errors import RunwireError


class WorkerError(RunwireError):
    """Base of what this package raises on purpose."""


class Retryable(WorkerError):  # noqa: N818 - a word of the worker's vocabulary
    """The same call may succeed later; nothing needs to change but time.

    Units: `after_s` is the shortest useful wait; the worker backs off from there.
    """

    def __init__(self, after_s: float, reason: str) -> None:
        super().__init__(reason)
        self.after_s = after_s
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Rejection:
    """One row source a sink refused: `kind` and the index in that kind's list of the batch.

    For kind "metric" the index is into `batch.metrics`, else into `batch.events[kind]`.
    """

    kind: str
    index: int
    reason: str


class RowsRejected(WorkerError):  # noqa: N818 - as above
    """The sink will never accept some rows; the rest of the batch is not written yet."""

    def __init__(self, rejections: list[Rejection]) -> None:
        if not rejections:
            raise ValueError("RowsRejected needs at least one rejection")
        first = rejections[0]
        super().__init__(f"{len(rejections)} rows rejected, first: {first.kind}: {first.reason}")
        self.rejections = rejections


class Fatal(WorkerError):  # noqa: N818 - as above
    """Only a person can help: the sentence says what happened and what to do next."""


class DeadLetterLimit(Fatal):
    """So many records were set aside that going on would hide a broken deploy."""


class AlreadyRunning(Fatal):
    """Another worker holds this folder."""


class SkipFlush(BaseException):
    """A second signal arrived: leave at once, without flush. Not an error of the program."""
