"""The sink into ClickHouse: a round of batches, table after table, each block under a token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse import rows as rows_of
from runwire_consumers.clickhouse.batch_blocks import (
    BOOK_TABLES,
    BatchBlocks,
    build_blocks,
    build_books,
)
from runwire_consumers.clickhouse.books import Books, Whole
from runwire_consumers.clickhouse.client import CALL_ERRORS, connect, explain
from runwire_consumers.clickhouse.inserts import Insert, Inserts
from runwire_consumers.clickhouse.migrate import pending
from runwire_consumers.clickhouse.rows import EVENT_TABLES
from runwire_consumers.clickhouse.tidiness import NOTE_UNTIDY, History, Tidiness
from runwire_consumers.clickhouse.tombstones import deleted_runs
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import Clock, Deadline, SystemClock
from runwire_consumers.core.errors import Fatal, RowsRejected
from runwire_consumers.core.sink import Refusals
from runwire_schemas.events import RunEvent
from runwire_schemas.metric_decode import MetricColumns

# A late spool of a deleted run may write this long after `runwire delete`; views hide it anyway.
TOMBSTONES_REFRESH_S = 5.0


class ClickHouseSink:
    """Writes batches idempotently: the same batch under the same token changes nothing.

    Threads: one at a time, and any for `prepare`.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock | None = None,
        open_client: Callable[[str], Client] = connect,
    ) -> None:
        self._url = url
        self._clock = clock or SystemClock()
        self._inserts = Inserts(url, open_client)
        self._tidiness = Tidiness(self._history)
        self._books = Books(self._stored_books)
        self._deleted: set[tuple[str, str]] = set()
        self._deleted_at_s: float | None = None
        # Rows left out because their run was deleted, by kind ("metric" counts points).
        self.rows_of_deleted_runs: Counter[str] = Counter()

    def check(self) -> None:
        """Prove that a write could work now.

        Raises: Retryable when ClickHouse does not answer, Fatal for a wrong password or missing
        migrations.
        """
        try:
            missing = pending(self._client())
            self._refresh_tombstones()
        except CALL_ERRORS as error:
            raise explain(error, self._url) from error
        if missing:
            raise Fatal(f"the database lacks {', '.join(missing)}: run `runwire migrate`")

    def prepare(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return the batches with the blocks that need nothing but their rows.

        They are built again at the write if a run was deleted meanwhile.
        """
        if self._deleted_at_s is None:
            return list(batches)
        return [replace(batch, blocks=self._try_build(batch)) for batch in batches]

    def write(self, batch: Batch) -> None:
        """Write all rows of the batch; on return they are readable and on disk.

        Raises: Retryable, PiecesNeeded, RowsRejected, Fatal.
        """
        for refusal in self.write_round([batch]).values():
            raise refusal

    def write_round(self, batches: Sequence[Batch]) -> Refusals:
        """Write all rows of the batches; on return they are readable and on disk.

        Returns what stopped a batch, by token. Raises: Retryable, Fatal.
        Blocks: until ClickHouse answers, at most for client.py's answer limit per piece.
        """
        try:
            self._client()
            self._refresh_tombstones()
            self._inserts.begin(batches)
            built: list[tuple[Batch, BatchBlocks]] = []
            for batch in batches:
                try:
                    built.append((batch, self._blocks_of(batch)))
                except RowsRejected as error:
                    self._inserts.refusals[batch.token] = error
            self._send(built)
            written = self._unrefused(built)
            self._note_untidy([batch for batch, _ in written])
            for _, blocks in written:
                self.rows_of_deleted_runs += blocks.left_out
            stopped = [blocks for batch, blocks in built if batch.token in self._inserts.refusals]
            writers = {item.row.writer for blocks in stopped for item in blocks.metrics}
            self._tidiness.keep(but=writers)
            self._books.keep(but=writers)
        except Exception as error:
            self._inserts.forget_stored()
            if isinstance(error, CALL_ERRORS):
                raise explain(error, self._url) from error
            raise
        return self._inserts.refusals

    def close(self, deadline: Deadline) -> None:
        """Release the connections."""
        self._inserts.clients.close()

    def _client(self) -> Client:
        return self._inserts.clients.first()

    def _send(self, built: Sequence[tuple[Batch, BatchBlocks]]) -> None:
        """Send every table in the order in which readers may see them.

        Runs come before points: a reader then never sees points of an unknown attempt. The rollup
        comes before points too: the views find in it which points are abandoned. Points come before
        the books: what is counted as stored is stored.
        """
        # The history is read before the rollup gets the points of this round.
        flags = self._tidiness.judge([b.points for _, b in built if b.points is not None])

        def of(table: str) -> list[Insert]:
            pieces = ((batch, piece) for batch, blocks in built for piece in blocks.tables[table])
            return [Insert(batch, piece) for batch, piece in pieces]

        for table, _ in EVENT_TABLES.values():
            self._inserts.send_together(of(table))
        self._inserts.send_together(of("metric_rollup"))
        self._inserts.send_side_by_side(of("metrics"))
        left = iter(flags)
        untidy = {batch.token: [next(left) for _ in blocks.metrics] for batch, blocks in built}
        self._send_books(self._unrefused(built), untidy)
        self._inserts.send_together(of("dead_letters"))

    def _send_books(
        self, stored: Sequence[tuple[Batch, BatchBlocks]], untidy: Mapping[str, list[bool]]
    ) -> None:
        """Send the books of batches whose points are stored; `untidy` is by token."""
        whole = iter(self._books.follow([item.row for _, b in stored for item in b.metrics]))
        books = [
            (batch, build_books(batch, b, untidy[batch.token], [next(whole) for _ in b.metrics]))
            for batch, b in stored
        ]
        for table in BOOK_TABLES:
            inserts = [Insert(batch, piece) for batch, tables in books for piece in tables[table]]
            self._inserts.send_together(inserts)

    def _unrefused(
        self, built: Sequence[tuple[Batch, BatchBlocks]]
    ) -> list[tuple[Batch, BatchBlocks]]:
        return [pair for pair in built if pair[0].token not in self._inserts.refusals]

    def _blocks_of(self, batch: Batch) -> BatchBlocks:
        """Return the blocks that were prepared, or new ones. Raises: RowsRejected."""
        prepared: BatchBlocks | None = batch.blocks
        if prepared is not None and prepared.deleted is self._deleted:
            return prepared
        return build_blocks(batch, self._deleted)

    def _try_build(self, batch: Batch) -> BatchBlocks | None:
        try:
            return build_blocks(batch, self._deleted)
        except RowsRejected:  # its write will say so
            return None

    def _history(self, batches: Sequence[MetricColumns]) -> History:
        """Return the greatest steps stored so far for the runs and ranks of the batches."""
        answer = self._client().query(
            "SELECT project, run_id, rank, metric, max(last_step) FROM metric_rollup "
            "WHERE (project, run_id) IN %(runs)s GROUP BY project, run_id, rank, metric",
            parameters={"runs": tuple(sorted({(b.project, b.run_id) for b in batches}))},
        )
        history: History = {}
        for project, run_id, rank, metric, step in answer.result_rows:
            history.setdefault((project, run_id, rank), {})[metric] = step
        return history

    def _stored_books(self, batches: Sequence[MetricColumns]) -> dict[str, Whole]:
        """Return what is whole in the store of the writers of the batches."""
        names = {rows_of.writer_key(batch.writer): batch.writer for batch in batches}
        answer = self._client().query(
            "SELECT writer, max(whole).1, max(whole).2 FROM writer_progress "
            "WHERE (project, run_id) IN %(runs)s AND writer IN %(writers)s GROUP BY writer",
            parameters={
                "runs": tuple(sorted({(b.project, b.run_id) for b in batches})),
                "writers": tuple(sorted(names)),
            },
        )
        return {names[writer]: Whole(*whole) for writer, *whole in answer.result_rows}

    def _note_untidy(self, batches: Sequence[Batch]) -> None:
        """Let the store list the untidy writers of runs with a new writer or attempt."""
        runs = set(self._tidiness.suspects)
        for event in (event for batch in batches for event in batch.events.get("run", [])):
            if isinstance(event, RunEvent) and (
                event.event == "started" or event.resumed_from_step is not None
            ):
                runs.add((event.project, event.run_id))
        if runs - self._deleted:
            self._client().command(
                NOTE_UNTIDY,
                parameters={"runs": tuple(sorted(runs - self._deleted))},
                # No token: after a deletion the same rows must be taken again.
                settings={"insert_deduplicate": 0},
            )

    def _refresh_tombstones(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._deleted_at_s is None or now_s - self._deleted_at_s >= TOMBSTONES_REFRESH_S:
            deleted = deleted_runs(self._client())
            if deleted != self._deleted:  # else prepared blocks stay good
                self._deleted = deleted
            self._deleted_at_s = now_s
