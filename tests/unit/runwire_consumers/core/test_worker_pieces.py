"""The worker and batches that their sink takes only in pieces."""

from __future__ import annotations

import pytest

from runwire_consumers.core.batch import Batch
from runwire_consumers.core.errors import PiecesNeeded
from runwire_consumers.core.pieces import WHOLE, Pieces
from runwire_consumers.core.sink import MemorySink
from runwire_consumers.core.source import Pending, Span
from support.builders import AT_NS, Bench, metric_record

SMALL = WHOLE.cut("metrics", 0, 3)


class Choosy(MemorySink):
    """Takes batches in small pieces only, and notes what it was given."""

    seen: list[tuple[str, Pieces, Pieces | None]]
    bench: Bench

    def write(self, batch: Batch) -> None:
        intent = self.bench.log.intent
        self.seen.append((batch.token, batch.pieces, intent.pieces if intent else None))
        if batch.pieces != SMALL:
            raise PiecesNeeded(batch.token, SMALL, "too large")
        super().write(batch)


def choosy(bench: Bench) -> Choosy:
    sink = Choosy(bench.store)
    sink.seen, sink.bench = [], bench
    return sink


@pytest.mark.parametrize("overlap", [False, True])
def test_cut_is_kept_in_the_intent_before_the_first_piece(*, overlap: bool) -> None:
    """The same batch comes again under its token, in pieces that the source already keeps."""
    bench = Bench(overlap=overlap)
    bench.log.append([metric_record(0)])
    sink = choosy(bench)
    assert bench.start(sink=sink).run() == 0
    (first, second) = sink.seen
    assert (first[0], first[1:]) == (second[0], (WHOLE, WHOLE))
    assert second[1:] == (SMALL, SMALL)
    assert bench.store.points == 2
    assert bench.log.intent is None


def test_replayed_batch_has_the_pieces_of_its_intent() -> None:
    """After a death between two pieces the next process writes the same pieces."""
    bench = Bench()
    bench.log.append([metric_record(0)])

    class Dying(Choosy):
        def write(self, batch: Batch) -> None:
            super().write(batch)
            raise RuntimeError("killed")

    sink = Dying(bench.store)
    sink.seen, sink.bench = [], bench
    assert bench.start(sink=sink).run() == 1
    again = choosy(bench)
    assert bench.start(sink=again).run() == 0
    assert again.seen == [sink.seen[-1]]
    assert bench.store.points == 2


def test_rest_of_a_batch_whose_first_records_expired_gets_a_token_of_its_own() -> None:
    """Its rows have other places than before: under the tokens in use they would be dropped."""
    bench = Bench()
    bench.log.append([metric_record(1), metric_record(2)])
    bench.log.intent = Pending("memory:1", {"p/metric": Span(0, 2)}, AT_NS, (), SMALL)
    assert bench.start().run() == 0
    (batch,) = bench.store.batches.values()
    assert (batch.token, batch.pieces, batch.points) == ("memory:1:rest", WHOLE, 4)
    assert bench.log.committed == {"p/metric": 3}
