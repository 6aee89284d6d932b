"""The sink into ClickHouse: one Native block per table and batch, each under the batch's token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse import rows
from runwire_consumers.clickhouse.client import CALL_ERRORS, connect, explain
from runwire_consumers.clickhouse.migrate import pending
from runwire_consumers.clickhouse.rows import EVENT_TABLES
from runwire_consumers.clickhouse.tidiness import NOTE_UNTIDY, History, Tidiness
from runwire_consumers.clickhouse.tombstones import deleted_runs
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import Clock, Deadline, SystemClock
from runwire_consumers.core.errors import Fatal, Rejection, RowsRejected
from runwire_schemas.events import Event, RunEvent
from runwire_schemas.metric_decode import MetricColumns

# A late spool of a deleted run may write this long after `runwire delete`; views hide it anyway.
TOMBSTONES_REFRESH_S = 5.0
DEAD_LETTER = "deadletter"


class _OfRun(Protocol):
    @property
    def project(self) -> str: ...
    @property
    def run_id(self) -> str: ...


T = TypeVar("T", bound=_OfRun)


class ClickHouseSink:
    """Writes batches idempotently: the same batch under the same token changes nothing.

    Threads: one at a time.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock | None = None,
        open_client: Callable[[str], Client] = connect,
    ) -> None:
        self._url = url
        self._open_client = open_client
        self._clock = clock or SystemClock()
        self._client: Client | None = None
        self._tidiness = Tidiness(self._history)
        self._deleted: set[tuple[str, str]] = set()
        self._deleted_at_s: float | None = None
        # Rows left out because their run was deleted, by kind ("metric" counts points).
        self.rows_of_deleted_runs: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def check(self) -> None:
        """Prove that a write could work now.

        Raises: Retryable when ClickHouse does not answer, Fatal for a wrong password or missing
        migrations.
        """
        try:
            missing = pending(self._connected())
            self._refresh_tombstones()
        except CALL_ERRORS as error:
            raise explain(error, self._url) from error
        if missing:
            raise Fatal(f"the database lacks {', '.join(missing)}: run `runwire migrate`")

    def write(self, batch: Batch) -> None:
        """Write all rows of the batch; on return they are readable and on disk.

        Raises: Retryable, RowsRejected, Fatal.
        Blocks: until ClickHouse answers, at most for client.py's answer limit per table.
        """
        try:
            self._connected()
            self._refresh_tombstones()
            self._left_out.clear()  # of a try that failed
            for table, block in self._blocks(batch):
                self._insert(table, block, batch.token)
            self._note_untidy(batch)
            self._tidiness.keep()
            self.rows_of_deleted_runs += self._left_out
        except CALL_ERRORS as error:
            raise explain(error, self._url) from error

    def close(self, deadline: Deadline) -> None:
        """Release the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connected(self) -> Client:
        if self._client is None:
            self._client = self._open_client(self._url)
        return self._client

    def _insert(self, table: str, block: bytes, token: str) -> None:
        self._connected().raw_insert(
            table,
            insert_block=block,
            fmt="Native",
            settings={
                "async_insert": 0,
                # Reads use FINAL anyway; collapsing at insert too would cost a third of its time.
                "optimize_on_insert": 0,
                "insert_deduplicate": 1,
                "insert_deduplication_token": f"{token}:{table}",
                "deduplicate_blocks_in_dependent_materialized_views": 1,
            },
        )

    def _blocks(self, batch: Batch) -> list[tuple[str, bytes]]:
        """Return the block of every table, all built before the first is sent.

        Runs come before points: a reader then never sees points of an unknown attempt.
        """
        blocks: list[tuple[str, bytes]] = []
        rejected: list[Rejection] = []
        for kind, events in batch.events.items():
            if kind not in EVENT_TABLES and kind != DEAD_LETTER:
                reason = f"this version has no table for {kind} records"
                rejected += [Rejection(kind, index, reason) for index in range(len(events))]
        for kind, (table, build) in EVENT_TABLES.items():
            events = self._alive(kind, batch.events.get(kind, []))
            if events:
                try:
                    blocks.append((table, build(events, batch.append_at_ns)))
                except (ValueError, OverflowError):
                    rejected += _unencodable(kind, batch.events[kind], build)
        metrics = self._alive("metric", [m for m in batch.metrics if m.points])
        untidy = self._tidiness.judge(metrics)
        if metrics:
            blocks.append(("metrics", rows.metric_rows(metrics)))
            blocks.append(("metric_rollup", rows.rollup_rows(metrics)))
            blocks.append(("batches", rows.batch_rows(metrics, batch.append_at_ns, untidy=untidy)))
        # One block of both: a second one would carry the same token and be dropped.
        letters = [*batch.dead, *batch.events.get(DEAD_LETTER, ())]
        if letters:
            blocks.append(("dead_letters", rows.dead_rows(letters)))
        if rejected:
            raise RowsRejected(rejected)
        return blocks

    def _alive(self, kind: str, events: Sequence[T]) -> list[T]:
        """Return the events without those of deleted runs, which are counted."""
        if not self._deleted:
            return list(events)
        kept = []
        for event in events:
            if (event.project, event.run_id) in self._deleted:
                self._left_out[kind] += getattr(event, "points", 1)
            else:
                kept.append(event)
        return kept

    def _history(self, batches: Sequence[MetricColumns]) -> History:
        """Return the greatest steps stored so far for the runs and ranks of the batches."""
        keys = _key_list({(b.project, b.run_id) for b in batches})
        answer = self._connected().query(
            "SELECT project, run_id, rank, metric, max(last_step) FROM metric_rollup "
            f"WHERE run_key IN ({keys}) GROUP BY project, run_id, rank, metric"
        )
        history: History = {}
        for project, run_id, rank, metric, step in answer.result_rows:
            history.setdefault((project, run_id, rank), {})[metric] = step
        return history

    def _note_untidy(self, batch: Batch) -> None:
        """Let the store list the untidy writers of runs with a new writer or attempt."""
        runs = set(self._tidiness.suspects)
        for event in batch.events.get("run", []):
            if isinstance(event, RunEvent) and (
                event.event == "started" or event.resumed_from_step is not None
            ):
                runs.add((event.project, event.run_id))
        if runs - self._deleted:
            statement = NOTE_UNTIDY.format(keys=_key_list(runs - self._deleted))
            # No token: after a deletion the same rows must be taken again.
            self._connected().command(statement, settings={"insert_deduplicate": 0})

    def _refresh_tombstones(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._deleted_at_s is None or now_s - self._deleted_at_s >= TOMBSTONES_REFRESH_S:
            self._deleted = deleted_runs(self._connected())
            self._deleted_at_s = now_s


def _key_list(runs: set[tuple[str, str]]) -> str:
    """Return the keys of the runs as SQL text: a literal beyond 64 bits is read as a float."""
    numbers = [int.from_bytes(rows.run_key(*run), "little") for run in sorted(runs)]
    return ",".join(f"toUInt128('{number}')" for number in numbers)


def _unencodable(
    kind: str, events: Sequence[Event], build: Callable[[Any, int], bytes]
) -> list[Rejection]:
    """Return the events that no block can hold: invalid Unicode, numbers beyond 64 bits."""
    rejected = []
    for index, event in enumerate(events):
        try:
            build([event], 0)
        except (ValueError, OverflowError) as error:
            rejected.append(Rejection(kind, index, str(error)))
    return rejected
