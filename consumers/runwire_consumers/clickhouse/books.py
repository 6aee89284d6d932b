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
from typing import Final, NamedTuple, TypeVar

from runwire_schemas.metric_decode import MetricColumns

__all__ = ["Books", "Whole", "remember"]

T = TypeVar("T")

# About 300 bytes each.
WRITERS_MAX: Final = 100_000


class Whole(NamedTuple):
    """All of a writer's first `batches` batches are stored; they hold `points` points."""

    batches: int = 0
    points: int = 0


class _Book(NamedTuple):
    """What is whole of a writer, and the number of the batch that was followed last."""

    whole: Whole
    last_seq: int


def remember(
    kept: OrderedDict[str, T], stored: Mapping[str, T], *, but: Collection[str], writers_max: int
) -> None:
    """Keep what is known of writers, except these; forget those that were heard longest ago."""
    for writer, known in stored.items():
        if writer not in but:
            kept[writer] = known
            kept.move_to_end(writer)
    while len(kept) > writers_max:
        kept.popitem(last=False)


class Books:
    """Follows the batches of writers in their order, and remembers them once they are stored.

    Threads: one at a time.
    """

    def __init__(
        self, read_books: Callable[[Sequence[MetricColumns]], Mapping[str, Whole]]
    ) -> None:
        self._read_books = read_books
        self._kept: OrderedDict[str, _Book] = OrderedDict()
        self._followed: dict[str, _Book] = {}

    def follow(self, batches: Sequence[MetricColumns]) -> list[Whole]:
        """Return what is whole of its writer once each batch is stored; repeatable until `keep`."""
        self._followed = {}
        unknown = self._unknown(batches)
        stored = self._read_books(unknown) if unknown else {}
        found = []
        for batch in batches:
            writer = batch.head.writer
            book = self._followed.get(writer) or self._kept.get(writer)
            whole = max(book.whole if book else Whole(), stored.get(writer, Whole()))
            if (batch.batch_seq, batch.points_before) == whole:
                whole = Whole(batch.batch_seq + 1, batch.points_before + batch.points)
            self._followed[writer] = _Book(whole, batch.batch_seq)
            found.append(whole)
        return found

    def _unknown(self, batches: Sequence[MetricColumns]) -> list[MetricColumns]:
        """Return the batches before which one is missing that another worker may have stored."""
        lasts: dict[str, int] = {}
        unknown = []
        for batch in batches:
            writer, number = batch.head.writer, batch.batch_seq
            last = lasts.get(writer)
            if last is None:
                kept = self._kept.get(writer)
                last = kept.last_seq if kept else -1
            if number > last + 1:
                unknown.append(batch)
            lasts[writer] = number
        return unknown

    def keep(self, *, but: Collection[str] = ()) -> None:
        """Remember the followed batches, as they are stored, but those of these writers."""
        remember(self._kept, self._followed, but=but, writers_max=WRITERS_MAX)
        self._followed = {}
