"""The `Sink` protocol, the destination of batches, and its implementation in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.errors import PiecesNeeded, Refusal, Retryable, RowsRejected

# What kept batches from being written, by token.
Refusals = dict[str, Refusal]


class Sink(Protocol):
    """Writes batches idempotently: the same token again changes nothing."""

    def check(self) -> None:
        """Prove that a write could work now.

        Raises: Retryable when waiting may help, Fatal when a person must act.
        """
        ...

    def prepare(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return the batches, which need no tokens yet, with what `write_round` will send of them.

        It has no effect outside, so that a batch that is never written is simply forgotten.
        Threads: any, also while another thread writes.
        """
        ...

    def write_round(self, batches: Sequence[Batch]) -> Refusals:
        """Write all rows of the batches, as `write` does; return what stopped some of them.

        Those without an entry are readable and durable, whatever became of the others.
        Raises: Retryable, after which all are written again, and fatal errors.
        """
        ...

    def write(self, batch: Batch) -> None:
        """Write all rows of the batch; on return they are readable and durable.

        Raises: Retryable (same batch, same token, later), PiecesNeeded (same batch, same token, in
        smaller pieces), RowsRejected (write again without those rows, same token); any other error
        is fatal. After an error some tables may already have the batch: the token makes the
        repetition harmless.
        """
        ...

    def close(self, deadline: Deadline) -> None:
        """Release every handle."""
        ...


def write_each(batches: Sequence[Batch], write: Callable[[Batch], None]) -> Refusals:
    """Write a round one batch after the other; a Retryable ends it for the rest as well."""
    refusals: Refusals = {}
    for place, batch in enumerate(batches):
        try:
            write(batch)
        except (RowsRejected, PiecesNeeded) as error:
            refusals[batch.token] = error
        except Retryable as error:
            return refusals | {left.token: error for left in batches[place:]}
    return refusals


@dataclass
class StoredBatches:
    """The store behind a MemorySink, which outlives it: batches by token, in order of arrival."""

    batches: dict[str, Batch] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)

    @property
    def points(self) -> int:
        """Number of points stored."""
        return sum(batch.points for batch in self.batches.values())

    def count(self, kind: str) -> int:
        """Return the rows stored of a kind ("metric": points, "deadletter": dead letters)."""
        if kind == "metric":
            return self.points
        if kind == "deadletter":
            batches = self.batches.values()
            return sum(len(b.dead) + len(b.events.get("deadletter", [])) for b in batches)
        return sum(len(batch.events.get(kind, [])) for batch in self.batches.values())


class MemorySink:
    """A sink into `StoredBatches`; `failures` are raised first, one per call of `write`."""

    def __init__(self, store: StoredBatches) -> None:
        self._store = store
        self.failures: list[BaseException] = []

    def check(self) -> None:
        """Do nothing: memory can always be written."""

    def prepare(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return the batches as they are: memory takes them so."""
        return list(batches)

    def write_round(self, batches: Sequence[Batch]) -> Refusals:
        """Store the batches one after the other."""
        return write_each(batches, self.write)

    def write(self, batch: Batch) -> None:
        """Store the batch unless its token is stored already."""
        if self.failures:
            raise self.failures.pop(0)
        self._store.writes.append(batch.token)
        self._store.batches.setdefault(batch.token, batch)

    def close(self, deadline: Deadline) -> None:
        """Do nothing: there is no handle."""
