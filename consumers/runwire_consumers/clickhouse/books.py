"""Books of writers: up to which batch all are stored, so that counting needs no row per batch.

A writer numbers its batches from 0, and each says how many points came before it. While they arrive
one after the other, two numbers per writer hold what is stored of it. After a gap (a dead letter, a
lost record, a sender that did not count) the numbers stay where they were for good, and
`v_completeness` adds up the rows of `batches` for that writer. Where the past is unknown (another
worker read the writer, or this one was restarted) it is read from the store.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

from runwire_schemas.metric_decode import MetricColumns

__all__ = ["Books", "Whole"]

# About 200 bytes each.
WRITERS_MAX: Final = 100_000


class Whole(NamedTuple):
    """All of a writer's first `batches` batches are stored; they hold `points` points."""

    batches: int = 0
    points: int = 0


class Books:
    """Follows the batches of writers in their order, and remembers them once they are stored.

    Threads: one at a time.
    """

    def __init__(
        self, read_books: Callable[[Sequence[MetricColumns]], Mapping[str, Whole]]
    ) -> None:
        self._read_books = read_books
        self._kept: OrderedDict[str, Whole] = OrderedDict()
        self._followed: dict[str, Whole] = {}

    def follow(self, batches: Sequence[MetricColumns]) -> list[Whole]:
        """Return what is whole of its writer once each batch is stored; repeatable until `keep`."""
        self._followed = {}
        unknown = [b for b in batches if b.batch_seq > 0 and b.writer not in self._kept]
        stored = self._read_books(unknown) if unknown else {}
        found = []
        for batch in batches:
            writer = batch.head.writer
            whole = self._followed.get(writer) or self._kept.get(writer)
            if whole is None:
                whole = stored.get(writer, Whole())
            if (batch.batch_seq, batch.points_before) == whole:
                whole = Whole(batch.batch_seq + 1, batch.points_before + batch.points)
            self._followed[writer] = whole
            found.append(whole)
        return found

    def keep(self, *, but: Collection[str] = ()) -> None:
        """Remember the followed batches, as they are stored, but those of these writers."""
        for writer, whole in self._followed.items():
            if writer not in but:
                self._kept[writer] = whole
                self._kept.move_to_end(writer)
        self._followed = {}
        while len(self._kept) > WRITERS_MAX:
            self._kept.popitem(last=False)
