"""Parts of the worker to ClickHouse: its sink that follows the engine, and the engine's address."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire_consumers.compose.workers import LazySink, embedded_url
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.sink import MemorySink, StoredBatches
from runwire_disk.paths import connection_file
from support.builders import batch_of, metric_record

BATCH = batch_of([metric_record(0)])


class Engines:
    """Sinks by address; the first write at each address of `failing` raises Retryable."""

    def __init__(self, address: str, *failing: str) -> None:
        self.address = address
        self.opened: list[str] = []
        self.next_address = address
        self._failing = failing

    def open(self, url: str) -> MemorySink:
        self.opened.append(url)
        engines = self

        class Engine(MemorySink):
            def write(self, batch: Batch) -> None:
                engines.address = engines.next_address
                super().write(batch)

        sink = Engine(StoredBatches())
        sink.failures = [Retryable(0.1, "away")] if url in self._failing else []
        return sink


def test_lazy_sink_opens_at_the_first_write_and_stays_open() -> None:
    """Nothing is opened before the first write; a failed write at the same address reuses it."""
    engines = Engines("first", "first")
    sink = LazySink(lambda: engines.address, engines.open)
    assert engines.opened == []
    with pytest.raises(Retryable):
        sink.write(BATCH)
    sink.write(BATCH)
    assert engines.opened == ["first"]


def test_lazy_sink_opens_the_new_address_when_the_engine_moved() -> None:
    """A write that failed while the engine moved is repeated at the new address."""
    engines = Engines("first", "first")
    sink = LazySink(lambda: engines.address, engines.open)
    engines.next_address = "second"
    with pytest.raises(Retryable):
        sink.write(BATCH)
    sink.write(BATCH)
    assert engines.opened == ["first", "second"]
    sink.close(Deadline(1))


def test_embedded_url_is_retryable_until_the_engine_wrote_it(tmp_path: Path) -> None:
    """Without connection.json the worker waits for `runwire up`; with it the address is read."""
    with pytest.raises(Retryable, match="runwire up"):
        embedded_url(tmp_path)
    path = connection_file(tmp_path)
    path.parent.mkdir()
    path.write_text('{"url": "http://x/y"}')
    assert embedded_url(tmp_path) == "http://x/y"
