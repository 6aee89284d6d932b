"""Books of writers: what they call whole is stored, whatever came in which order."""

from __future__ import annotations

import random
from collections.abc import Sequence

from runwire_consumers.clickhouse.books import Books, Whole
from runwire_schemas.events import MetricBatch
from runwire_schemas.metric_decode import MetricColumns, columns_of


def columns(number: int, points: int, before: int, writer: str = "w") -> MetricColumns:
    return columns_of(
        MetricBatch(
            project="p",
            run_id="r",
            attempt="a",
            writer=writer,
            rank=0,
            batch_seq=number,
            points_before=before,
            names=["loss"],
            call_seq=[before],
            call_step=[before],
            call_at_ms=[0],
            call_n=[points],
            name_idx=[0] * points,
            value=[0.0] * points,
        )
    )


def nothing(_: Sequence[MetricColumns]) -> dict[str, Whole]:
    return {}


def test_books_follow_batches_that_come_one_after_the_other() -> None:
    """Of every writer by itself, also within one call."""
    books = Books(nothing)
    found = books.follow([columns(0, 3, 0), columns(0, 1, 0, "v"), columns(1, 2, 3)])
    assert found == [(1, 3), (1, 1), (2, 5)]


def test_books_stay_before_a_gap_for_good() -> None:
    """A number that is missing, or points that no batch had."""
    books = Books(nothing)
    missing = [columns(0, 3, 0), columns(2, 2, 5), columns(3, 2, 7)]
    assert books.follow(missing) == [(1, 3)] * 3
    assert books.follow([columns(0, 3, 0), columns(1, 2, 4)]) == [(1, 3)] * 2
    assert books.follow([columns(0, 3, -1), columns(1, 2, -1)]) == [(0, 0)] * 2


def test_books_forget_what_was_not_stored() -> None:
    """A batch whose write failed is followed again from where its writer was."""
    books = Books(nothing)
    assert books.follow([columns(0, 3, 0)]) == [(1, 3)]
    assert books.follow([columns(0, 3, 0)]) == [(1, 3)]
    books.keep()
    assert books.follow([columns(1, 1, 3)]) == [(2, 4)]
    assert books.follow([columns(1, 2, 3)]) == [(2, 5)]


def test_books_go_on_behind_what_another_worker_stored() -> None:
    """The partition went away and came back; a gap that the store has too is read once."""
    stored = Whole()
    reads = 0

    def read(_: Sequence[MetricColumns]) -> dict[str, Whole]:
        nonlocal reads
        reads += 1
        return {"w": stored}

    books = Books(read)
    assert books.follow([columns(0, 3, 0), columns(1, 2, 3)]) == [(1, 3), (2, 5)]
    books.keep()
    stored = Whole(7, 30)
    assert books.follow([columns(7, 4, 30)]) == [(8, 34)]
    books.keep()
    assert books.follow([columns(9, 1, 35)]) == [(8, 34)]
    books.keep()
    assert books.follow([columns(10, 1, 36)]) == [(8, 34)]
    assert reads == 2


def test_books_call_whole_only_what_is_stored(seed: int) -> None:
    """Over random gaps, replays and restarts; without a gap they call all of it whole."""
    rng = random.Random(seed)
    for _ in range(300):
        sizes = [rng.randint(1, 3) for _ in range(8)]
        history = [columns(i, size, sum(sizes[:i])) for i, size in enumerate(sizes)]
        has_gap = rng.random() < 0.5
        if has_gap:
            del history[rng.randrange(7)]
        stored: dict[int, int] = {}
        written = Whole()

        def read(_: Sequence[MetricColumns]) -> dict[str, Whole]:
            return {"w": written}  # noqa: B023

        books, at = Books(read), 0
        while at < len(history):
            if rng.random() < 0.3:
                books = Books(read)
            batches = history[max(0, at - rng.randint(0, 2)) : at + 1]
            written = max(written, *books.follow(batches))
            books.keep()
            stored |= {batch.batch_seq: batch.points for batch in batches}
            at += 1
            first = [stored.get(i) for i in range(written.batches)]
            assert None not in first
            assert written.points == sum(size or 0 for size in first)
        assert (written.batches == len(sizes)) != has_gap
