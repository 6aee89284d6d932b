"""The worker to ClickHouse of the fault harness: it dies at a chosen moment, or has no protocol.

`python -m support.harness_worker --kill-at after-insert:3` is the product's worker, composed by its
own functions, whose source and client are wrapped: the third time it reaches the moment it dies by
SIGKILL, as if the machine had. `--unsafe` is the control: it keeps no intents, its insert tokens
never repeat and it commits rarely, so that every death must show duplicated rows.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client

from runwire_consumers import settings as worker_settings
from runwire_consumers.clickhouse.client import connect
from runwire_consumers.clickhouse.sink import ClickHouseSink
from runwire_consumers.compose.workers import WorkerParts, clickhouse_parts, run_clickhouse
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.pieces import Pieces
from runwire_consumers.core.sink import Refusals, Sink, write_each
from runwire_consumers.core.source import Record, Source, Span
from runwire_consumers.kafka.schema_ids import kafka_with_registry
from runwire_disk.paths import state_dir
from runwire_schemas.connections.clickhouse import ClickHouseSettings
from support.sources import ForwardingSource

POINTS = (
    "before-intent",
    "after-intent",
    "between-tables",
    "before-books",
    "after-insert",
    "after-commit",
)
# Moments of rounds of several batches: only a worker to Kafka has them.
ROUND_POINTS = ("after-prepare", "between-points")
CUT_POINT = "after-cut"  # reached only where the store refuses large blocks
UNSAFE_COMMIT_EVERY = 20
IDLE_S = 1.0  # without news for this long, even the control commits
_TESTS = Path(__file__).parents[1]


def command(*arguments: str, kill_at: str = "", unsafe: bool = False) -> list[str]:
    """The command line of this program; `environment` belongs to it."""
    chosen = ["--kill-at", kill_at] if kill_at else []
    return [
        *(sys.executable, "-m", "support.harness_worker", *arguments, *chosen),
        *(["--unsafe"] if unsafe else []),
    ]


def environment() -> dict[str, str]:
    """The variables that let Python find this program."""
    return {"PYTHONPATH": os.pathsep.join([str(_TESTS), os.environ.get("PYTHONPATH", "")])}


class KillPoint:
    """One moment of the protocol; `reach` ends the process at the n-th time."""

    def __init__(
        self, text: str, kill: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)
    ) -> None:
        """`text` is <point>:<n>, empty for none. Raises: ValueError naming the points."""
        self._point, _, count = text.partition(":")
        known = (*POINTS, *ROUND_POINTS, CUT_POINT)
        if text and (self._point not in known or not (count or "1").isdigit()):
            raise ValueError(f"{text!r}: use <point>:<n> with one of {', '.join(known)}")
        self._left = int(count or 1)
        self._kill = kill

    def reach(self, point: str) -> None:
        """Die here if this is the chosen moment."""
        if point == self._point:
            self._left -= 1
            if self._left <= 0:
                self._kill()


class KillingSource(ForwardingSource):
    """A source whose worker dies around its intents and commits.

    The worker commits right after the last insert of a round, so that `after-insert` is the moment
    before the commit.
    """

    def __init__(self, inner: Source, point: KillPoint) -> None:
        super().__init__(inner)
        self._point = point

    def intend(self, batches: Sequence[Mapping[str, Span]]) -> list[str]:
        self._point.reach("before-intent")
        tokens = self.inner.intend(batches)
        self._point.reach("after-intent")
        return tokens

    def cut(self, spans: Mapping[str, Span], pieces: Pieces) -> None:
        self.inner.cut(spans, pieces)
        self._point.reach(CUT_POINT)

    def commit(self, spans: Mapping[str, Span]) -> None:
        self._point.reach("after-insert")
        self.inner.commit(spans)
        self._point.reach("after-commit")


class UnsafeSource(ForwardingSource):
    """A source without the protocol: no durable intents, a commit at every n-th round only."""

    def __init__(self, inner: Source, *, commit_every: int = UNSAFE_COMMIT_EVERY) -> None:
        super().__init__(inner)
        self._commit_every = commit_every
        self._rounds = 0
        self._spans: dict[str, Span] = {}
        self._news_s = time.monotonic()

    def poll(self, timeout_s: float) -> list[Record]:
        records = self.inner.poll(timeout_s)
        if records:
            self._news_s = time.monotonic()
        elif self._spans and time.monotonic() - self._news_s > IDLE_S:
            self._commit_all()
        return records

    def revoked(self) -> frozenset[str]:
        lost = self.inner.revoked()
        self._spans = {name: span for name, span in self._spans.items() if name not in lost}
        return lost

    def intend(self, batches: Sequence[Mapping[str, Span]]) -> list[str]:
        return [f"unsafe:{uuid.uuid4().hex}" for _ in batches]

    def cut(self, spans: Mapping[str, Span], pieces: Pieces) -> None:
        """Keep nothing: a restart writes the batch whole."""

    def commit(self, spans: Mapping[str, Span]) -> None:
        for name, span in spans.items():
            first = self._spans[name].first if name in self._spans else span.first
            self._spans[name] = Span(first, span.last)
        self._rounds += 1
        if self._rounds % self._commit_every == 0:
            self._commit_all()

    def _commit_all(self) -> None:
        lanes: dict[str, dict[str, Span]] = {}
        for name, span in self._spans.items():
            lanes.setdefault(self.inner.lane(name), {})[name] = span
        self.inner.intend(list(lanes.values()))
        self.inner.commit(self._spans)
        self._spans = {}


class FreshTokens:
    """A sink that writes every batch, and every repetition of it, under a token of its own."""

    def __init__(self, inner: Sink) -> None:
        self.inner = inner

    def check(self) -> None:
        self.inner.check()

    def prepare(self, batches: Sequence[Batch]) -> list[Batch]:
        return self.inner.prepare(batches)

    def write_round(self, batches: Sequence[Batch]) -> Refusals:
        return write_each(batches, self.write)

    def write(self, batch: Batch) -> None:
        self.inner.write(replace(batch, token=f"unsafe:{uuid.uuid4().hex}"))

    def close(self, deadline: Deadline) -> None:
        self.inner.close(deadline)


class KillingSink:
    """A sink whose worker dies when the blocks of a batch are built and its intent is not made."""

    def __init__(self, inner: Sink, point: KillPoint) -> None:
        self.inner = inner
        self._point = point

    def check(self) -> None:
        self.inner.check()

    def prepare(self, batches: Sequence[Batch]) -> list[Batch]:
        prepared = self.inner.prepare(batches)
        self._point.reach("after-prepare")
        return prepared

    def write_round(self, batches: Sequence[Batch]) -> Refusals:
        return self.inner.write_round(batches)

    def write(self, batch: Batch) -> None:
        self.inner.write(batch)

    def close(self, deadline: Deadline) -> None:
        self.inner.close(deadline)


def killing_client(url: str, point: KillPoint) -> Client:
    """A client whose worker dies after the insert into one table, before that into the next.

    Points of other partitions may be on their way then.
    """
    client = connect(url)
    insert = client.raw_insert

    def raw_insert(table: str, *arguments: Any, **settings: Any) -> Any:
        if table == "batches":
            point.reach("before-books")
        summary = insert(table, *arguments, **settings)
        if table == "metrics":
            point.reach("between-points")
        point.reach("between-tables")
        return summary

    client.raw_insert = raw_insert  # type: ignore[method-assign]
    return client


def harness_parts(
    root: Path, settings: worker_settings.WorkerSettings, *, kill_at: str, unsafe: bool
) -> WorkerParts:
    """The product's parts, wrapped."""
    point = KillPoint(kill_at)

    def open_sink(url: str) -> Sink:
        sink = ClickHouseSink(url, open_client=lambda url: killing_client(url, point))
        return KillingSink(FreshTokens(sink) if unsafe else sink, point)

    parts = clickhouse_parts(
        root,
        lambda: ClickHouseSettings.from_environment(os.environ).url,
        settings,
        kafka=kafka_with_registry(os.environ),
        open_sink=open_sink,
    )
    source = UnsafeSource(parts.source) if unsafe else parts.source
    return replace(parts, source=KillingSource(source, point))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir")
    parser.add_argument("--kill-at", default="")
    parser.add_argument("--unsafe", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    root = state_dir(options.dir)
    settings = replace(worker_settings.from_environment(), metrics_port=0)
    parts = harness_parts(root, settings, kill_at=options.kill_at, unsafe=options.unsafe)
    return run_clickhouse(root, settings, parts)


if __name__ == "__main__":
    sys.exit(main())
