"""A source that forwards every call to another one: the base of sources that change one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.pieces import Pieces
from runwire_consumers.core.source import Pending, Record, Source, Span


class ForwardingSource:
    """Every call of the protocol goes to `inner`, by name, so that a renamed one is noticed."""

    def __init__(self, inner: Source) -> None:
        self.inner = inner

    def poll(self, timeout_s: float) -> list[Record]:
        return self.inner.poll(timeout_s)

    def pending(self) -> list[Pending]:
        return self.inner.pending()

    def lane(self, partition: str) -> str:
        return self.inner.lane(partition)

    def revoked(self) -> frozenset[str]:
        return self.inner.revoked()

    def intend(self, batches: Sequence[Mapping[str, Span]]) -> list[str]:
        return self.inner.intend(batches)

    def cut(self, spans: Mapping[str, Span], pieces: Pieces) -> None:
        self.inner.cut(spans, pieces)

    def commit(self, spans: Mapping[str, Span]) -> None:
        self.inner.commit(spans)

    def pause(self) -> None:
        self.inner.pause()

    def resume(self) -> None:
        self.inner.resume()

    def close(self, deadline: Deadline) -> None:
        self.inner.close(deadline)
