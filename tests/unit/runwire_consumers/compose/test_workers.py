"""Parts of the worker to ClickHouse: its sink that follows the engine, and the engine's address."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire_consumers.compose.workers import LazySink, embedded_url
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.errors import LoginRefused, Retryable
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


class Guarded(MemorySink):
    """A sink that takes one login only."""

    def __init__(self, url: str, accepted: list[str], store: StoredBatches) -> None:
        super().__init__(store)
        self._url, self._accepted = url, accepted

    def write(self, batch: Batch) -> None:
        if self._url not in self._accepted:
            raise LoginRefused("the password was refused")
        super().write(batch)


@pytest.mark.parametrize("is_renewable", [True, False])
def test_refused_login_is_taken_again_where_it_may_be_renewed(*, is_renewable: bool) -> None:
    """A login of a file is tried again until it is accepted; any other one ends the worker."""
    address, accepted, store = ["old"], ["old"], StoredBatches()
    sink = LazySink(
        lambda: address[0],
        lambda url: Guarded(url, accepted, store),
        is_login_renewable=is_renewable,
    )
    sink.write(BATCH)
    accepted[:] = ["new"]
    with pytest.raises(Retryable if is_renewable else LoginRefused, match="password was refused"):
        sink.write(BATCH)
    address[0] = "new"
    if not is_renewable:  # changed beside the file, as `runwire up` does
        with pytest.raises(Retryable):
            sink.write(BATCH)
    sink.write(BATCH)
    assert len(store.writes) == 2
