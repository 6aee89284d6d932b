"""Where batches go: the `Sink` protocol and its implementation in memory."""

from dataclasses import dataclass, field
from typing import Protocol

from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import Deadline


class Sink(Protocol):
    """Writes a batch idempotently: the same token again changes nothing."""

    def check(self) -> None:
        """Prove that a write could work now.

        Raises: Retryable when time may help, Fatal when only a person can.
        """
        ...

    def write(self, batch: Batch) -> None:
        """Write all rows of the batch; when it returns they are readable and durable.

        Raises: Retryable (same batch, same token, later), RowsRejected (write again without
        those rows, same token), anything else is fatal. After a raise some tables may hold
        the batch already: the token makes the repetition harmless.
        """
        ...

    def close(self, deadline: Deadline) -> None:
        """Release every handle."""
        ...


@dataclass
class StoredBatches:
    """What survives the death of a MemorySink: batches by token, in order of arrival."""

    batches: dict[str, Batch] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)

    @property
    def points(self) -> int:
        """Points stored."""
        return sum(batch.points for batch in self.batches.values())

    def count(self, kind: str) -> int:
        """Rows stored of a kind ("metric": points, "deadletter": dead letters)."""
        if kind == "metric":
            return self.points
        if kind == "deadletter":
            batches = self.batches.values()
            return sum(len(b.dead) + len(b.events.get("deadletter", [])) for b in batches)
        return sum(len(batch.events.get(kind, [])) for batch in self.batches.values())


class MemorySink:
    """A sink into a StoredBatches. `failures` are raised first, one per call of write."""

    def __init__(self, store: StoredBatches) -> None:
        self._store = store
        self.failures: list[BaseException] = []

    def check(self) -> None:
        """Always well."""

    def write(self, batch: Batch) -> None:
        """Keep the batch unless its token is known."""
        if self.failures:
            raise self.failures.pop(0)
        self._store.writes.append(batch.token)
        self._store.batches.setdefault(batch.token, batch)

    def close(self, deadline: Deadline) -> None:
        """Nothing to release."""
