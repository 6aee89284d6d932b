"""The `Sink` protocol, the destination of batches, and its implementation in memory."""

from dataclasses import dataclass, field
from typing import Protocol

from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import Deadline


class Sink(Protocol):
    """Writes a batch idempotently: the same token again changes nothing."""

    def check(self) -> None:
        """Prove that a write could work now.

        Raises: Retryable when waiting may help, Fatal when a person must act.
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

    def write(self, batch: Batch) -> None:
        """Store the batch unless its token is stored already."""
        if self.failures:
            raise self.failures.pop(0)
        self._store.writes.append(batch.token)
        self._store.batches.setdefault(batch.token, batch)

    def close(self, deadline: Deadline) -> None:
        """Do nothing: there is no handle."""
