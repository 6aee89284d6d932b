"""Replay of dead letters: what stops one of them stops no other."""

from __future__ import annotations

import pytest

from runwire_consumers.clickhouse import sink as clickhouse_sink
from runwire_consumers.clickhouse.refusals import REFUSALS_MAX
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.dead_letters import MemoryDeadLetters, letter_of
from runwire_consumers.core.errors import PiecesNeeded, Retryable
from runwire_consumers.core.pieces import WHOLE, Pieces
from runwire_consumers.core.sink import MemorySink, StoredBatches
from runwire_consumers.stack import letters as letters_of
from runwire_schemas import codec
from runwire_schemas.codec import HEADER_BYTES
from support.builders import AT_NS, metric_record, param_event, record

IN_PIECES = WHOLE.cut("metrics", 0, 1)


class Choosy(MemorySink):
    """Takes metrics in pieces only, and asks for them at the third try."""

    refusals = 0

    def write(self, batch: Batch) -> None:
        if batch.metrics and batch.pieces == Pieces():
            self.refusals += 1
            if self.refusals < REFUSALS_MAX:
                raise Retryable(1.0, "too large")
            raise PiecesNeeded(batch.token, IN_PIECES, "too large")
        super().write(batch)


def test_letters_without_a_registry_and_too_large_ones_stop_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one stays with its reason; the second is stored in pieces, the third as it is."""

    def resolve(schema_id: int) -> str | None:
        raise Retryable(1.0, "the registry does not answer")

    foreign = record(param_event(), 1)
    foreign = record(param_event(), 1, value=b"\0\0\0\0\x07\xff" + foreign.value[HEADER_BYTES:])
    stuck, large, other = (
        letter_of(one, "test", at_ns=AT_NS)
        for one in (foreign, metric_record(0), record(param_event(), 2))
    )
    kept = MemoryDeadLetters({one.id: one for one in (stuck, large, other)})
    store = StoredBatches()
    monkeypatch.setattr(clickhouse_sink, "ClickHouseSink", lambda _: Choosy(store))
    monkeypatch.setattr(letters_of, "_delete", lambda _url, place, ids: place.remove(set(ids)))
    codec.resolve_with(resolve)
    try:
        stored, failed = letters_of.replay("", kept, kept.read())
    finally:
        codec.resolve_with(None)
    assert stored == [large.id, other.id]
    assert failed == {stuck.id: "the registry does not answer"}
    assert store.batches[f"replay:{large.id}"].pieces == IN_PIECES
    assert kept.read() == [stuck]
