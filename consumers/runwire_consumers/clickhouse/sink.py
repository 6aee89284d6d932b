"""The sink into ClickHouse: one Native block per table and piece, each under a token of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse import rows as rows_of
from runwire_consumers.clickhouse.blocks import PlacedRow, TablePiece, TableRows
from runwire_consumers.clickhouse.books import Books, Whole
from runwire_consumers.clickhouse.client import CALL_ERRORS, connect, explain
from runwire_consumers.clickhouse.migrate import pending
from runwire_consumers.clickhouse.rows import EVENT_TABLES
from runwire_consumers.clickhouse.tidiness import NOTE_UNTIDY, History, Tidiness
from runwire_consumers.clickhouse.tombstones import deleted_runs
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import Clock, Deadline, SystemClock
from runwire_consumers.core.errors import Fatal, PiecesNeeded, Rejection, RowsRejected
from runwire_consumers.core.pieces import Pieces
from runwire_schemas.connections.clickhouse import error_code, trouble_of
from runwire_schemas.connections.clickhouse_troubles import ClickHouseTrouble
from runwire_schemas.events import Event, RunEvent
from runwire_schemas.metric_decode import MetricColumns

# A late spool of a deleted run may write this long after `runwire delete`; views hide it anyway.
TOMBSTONES_REFRESH_S = 5.0
DEAD_LETTER = "deadletter"


# A block is refused this often before it is written in pieces: the cause may be passing.
REFUSALS_MAX = 3
PIECES_OF_A_CUT = 8
# Kafka takes 4096 bytes of metadata with an offset. A batch with more refused rows than fit loses
# their neighbours to the dead letters too, where they can be replayed.
PIECES_TEXT_MAX = 2000
# No smaller block is cut. A server needs some MiB for an insert of any size.
SERVER_BLOCK_BYTES_MIN = 256 * 1024
PROXY_BLOCK_BYTES_MIN = 8 * 1024
# Tables that materialized views read: a refusal may come from a view, after the table took the
# block, so only a proxy's refusal proves that nothing was stored.
VIEWED_TABLES = frozenset({"artifacts", "heartbeats", "run_events"})

# A metric batch, whether it repeats a step, and what is whole of its writer once it is stored.
_Judged = tuple[MetricColumns, bool, Whole]
_REFUSALS = (ClickHouseTrouble.TOO_LARGE, ClickHouseTrouble.ROWS)


class _OfRun(Protocol):
    @property
    def project(self) -> str: ...
    @property
    def run_id(self) -> str: ...


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
        self._books = Books(self._stored_books)
        self._deleted: set[tuple[str, str]] = set()
        self._deleted_at_s: float | None = None
        # Rows left out because their run was deleted, by kind ("metric" counts points).
        self.rows_of_deleted_runs: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        # Tokens that the server has confirmed since this batch met nothing but refusals.
        self._stored_of, self._stored = "", set[str]()
        self._sizes: dict[str, int] = {}  # of the smallest pieces that a table needed so far

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

        Raises: Retryable, PiecesNeeded, RowsRejected, Fatal.
        Blocks: until ClickHouse answers, at most for client.py's answer limit per piece.
        """
        try:
            self._connected()
            self._refresh_tombstones()
            self._left_out.clear()  # of a try that failed
            if batch.token != self._stored_of:
                self._stored_of, self._stored = batch.token, set()
            for piece in self._pieces(batch):
                if piece.token(batch.token) not in self._stored:
                    self._insert(batch, piece)
            self._note_untidy(batch)
            self._tidiness.keep()
            self._books.keep()
            self.rows_of_deleted_runs += self._left_out
            self._stored_of = ""
        except CALL_ERRORS as error:
            if trouble_of(error) not in _REFUSALS:
                self._stored_of = ""  # a server that went away may have lost what it had confirmed
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

    def _insert(self, batch: Batch, piece: TablePiece) -> None:
        token = piece.token(batch.token)
        try:
            self._connected().raw_insert(
                piece.table,
                insert_block=piece.block,
                fmt="Native",
                settings={
                    "async_insert": 0,
                    # Reads use FINAL anyway; collapsing at insert too would cost a third of it.
                    "optimize_on_insert": 0,
                    "insert_deduplicate": 1,
                    "insert_deduplication_token": token,
                    "deduplicate_blocks_in_dependent_materialized_views": 1,
                },
            )
        except CALL_ERRORS as error:
            self._act_on_refusal(batch, piece, error)
            raise
        self._refusals.pop(token, None)
        self._stored.add(token)

    def _act_on_refusal(self, batch: Batch, piece: TablePiece, error: Exception) -> None:
        """Raises: PiecesNeeded, RowsRejected; returns where time may help or a person must act."""
        trouble, sentence = trouble_of(error), str(explain(error, self._url))
        if trouble not in _REFUSALS:
            return
        is_of_proxy = error_code(error) is None
        if piece.table in VIEWED_TABLES and not is_of_proxy:
            return  # a view may have failed after the table took the block
        if trouble is ClickHouseTrouble.ROWS and piece.kind in ("metric", DEAD_LETTER):
            return  # numbers, and letters that are cut to size: the server's words say more
        if trouble is ClickHouseTrouble.TOO_LARGE and len(piece.block) <= (
            PROXY_BLOCK_BYTES_MIN if is_of_proxy else SERVER_BLOCK_BYTES_MIN
        ):
            return  # smaller ones would not pass either, and cost the store one part each
        may_cut = piece.span > 1
        if may_cut:
            pieces = self._smaller(batch, piece, trouble)
            if pieces is None:
                return
            may_cut = len(str(pieces)) <= PIECES_TEXT_MAX
            if may_cut:
                raise PiecesNeeded(batch.token, pieces, sentence) from error
        if piece.kind in EVENT_TABLES and (is_of_proxy or trouble is ClickHouseTrouble.ROWS):
            rejected = [Rejection(piece.kind, index, sentence) for index in piece.indexes]
            raise RowsRejected(rejected) from error

    def _smaller(
        self, batch: Batch, piece: TablePiece, trouble: ClickHouseTrouble
    ) -> Pieces | None:
        """Return smaller pieces; None as long as the same one may pass."""
        size = max(1, piece.span // PIECES_OF_A_CUT)
        if trouble is ClickHouseTrouble.ROWS:
            return batch.pieces.cut(piece.table, piece.first, size, end=piece.end)
        token = piece.token(batch.token)
        self._refusals[token] += 1
        learned = self._sizes.get(piece.table)
        if learned is None and self._refusals[token] < REFUSALS_MAX:
            return None
        size = self._sizes[piece.table] = min(size, learned or size)
        return batch.pieces.cut(piece.table, piece.first, size)

    def _pieces(self, batch: Batch) -> list[TablePiece]:
        """Return the blocks of every table in their pieces, all built before the first is sent.

        Runs come before points: a reader then never sees points of an unknown attempt.
        """
        pieces: list[TablePiece] = []
        rejected: list[Rejection] = []
        for kind, events in batch.events.items():
            if kind not in EVENT_TABLES and kind != DEAD_LETTER:
                reason = f"this version has no table for {kind} records"
                rejected += [Rejection(kind, index, reason) for index in range(len(events))]
        for kind, (table, build) in EVENT_TABLES.items():
            events = batch.events.get(kind, [])
            encode = partial(_encode_events, build, batch.append_at_ns)
            rows = TableRows(kind, table, self._alive(kind, batch, events), encode)
            try:
                pieces += rows.pieces(batch.pieces)
            except (ValueError, OverflowError):
                rejected += _unencodable(kind, events, build)
        pieces += self._metric_pieces(batch)
        # One table of both: a second block would carry the same token and be dropped. Letters of
        # rejected rows are last, so that no other letter changes its place.
        letters = [*batch.events.get(DEAD_LETTER, ()), *batch.dead]
        placed = [PlacedRow(place, place, letter) for place, letter in enumerate(letters)]
        pieces += TableRows(DEAD_LETTER, "dead_letters", placed, rows_of.dead_rows).pieces(
            batch.pieces
        )
        if rejected:
            raise RowsRejected(rejected)
        return pieces

    def _metric_pieces(self, batch: Batch) -> list[TablePiece]:
        alive = self._alive("metric", batch, batch.metrics)
        alive = [item for item in alive if item.size]
        columns = [item.row for item in alive]
        untidy, whole = self._tidiness.judge(columns), self._books.follow(columns)
        judged = [
            replace(item, row=row, size=1)
            for item, row in zip(alive, zip(columns, untidy, whole, strict=True), strict=True)
        ]
        encode = partial(_encode_batches, batch.append_at_ns)
        progress = partial(_encode_progress, batch.append_at_ns)
        attempts = partial(_encode_attempts, batch.append_at_ns)
        roll_up = partial(_encode_rollup, batch.append_at_ns)
        tables = (
            # First the rollup: the views find in it which points are abandoned.
            TableRows("metric", "metric_rollup", alive, roll_up),
            TableRows("metric", "metrics", alive, rows_of.metric_rows),
            TableRows("metric", "batches", judged, encode),
            TableRows("metric", "writer_progress", judged, progress),
            TableRows("metric", "attempts", judged, attempts),
        )
        return [piece for rows in tables for piece in rows.pieces(batch.pieces)]

    def _alive(self, kind: str, batch: Batch, rows: Sequence[_OfRun]) -> list[PlacedRow]:
        """Return the rows with their places, without those of deleted runs, which are counted."""
        kept = []
        for index, (place, row) in enumerate(zip(batch.places_of(kind), rows, strict=True)):
            if (row.project, row.run_id) in self._deleted:
                self._left_out[kind] += getattr(row, "points", 1)
            else:
                size = row.points if isinstance(row, MetricColumns) else 1
                kept.append(PlacedRow(place, index, row, size))
        return kept

    def _history(self, batches: Sequence[MetricColumns]) -> History:
        """Return the greatest steps stored so far for the runs and ranks of the batches."""
        answer = self._connected().query(
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
        answer = self._connected().query(
            "SELECT writer, max(whole).1, max(whole).2 FROM writer_progress "
            "WHERE (project, run_id) IN %(runs)s AND writer IN %(writers)s GROUP BY writer",
            parameters={
                "runs": tuple(sorted({(b.project, b.run_id) for b in batches})),
                "writers": tuple(sorted(names)),
            },
        )
        return {names[writer]: Whole(*whole) for writer, *whole in answer.result_rows}

    def _note_untidy(self, batch: Batch) -> None:
        """Let the store list the untidy writers of runs with a new writer or attempt."""
        runs = set(self._tidiness.suspects)
        for event in batch.events.get("run", []):
            if isinstance(event, RunEvent) and (
                event.event == "started" or event.resumed_from_step is not None
            ):
                runs.add((event.project, event.run_id))
        if runs - self._deleted:
            self._connected().command(
                NOTE_UNTIDY,
                parameters={"runs": tuple(sorted(runs - self._deleted))},
                # No token: after a deletion the same rows must be taken again.
                settings={"insert_deduplicate": 0},
            )

    def _refresh_tombstones(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._deleted_at_s is None or now_s - self._deleted_at_s >= TOMBSTONES_REFRESH_S:
            self._deleted = deleted_runs(self._connected())
            self._deleted_at_s = now_s


def _encode_events(
    build: Callable[[Any, int], bytes], append_at_ns: int, events: Sequence[Any]
) -> bytes:
    return build(events, append_at_ns)


def _encode_rollup(append_at_ns: int, batches: Sequence[MetricColumns]) -> bytes:
    return rows_of.rollup_rows(batches, append_at_ns)


def _encode_batches(append_at_ns: int, judged: Sequence[_Judged]) -> bytes:
    batches, untidy, _ = zip(*judged, strict=True)
    return rows_of.batch_rows(batches, append_at_ns, untidy=untidy)


def _encode_progress(append_at_ns: int, judged: Sequence[_Judged]) -> bytes:
    batches, untidy, whole = zip(*judged, strict=True)
    return rows_of.progress_rows(batches, append_at_ns, untidy=untidy, whole=whole)


def _encode_attempts(append_at_ns: int, judged: Sequence[_Judged]) -> bytes:
    return rows_of.attempt_rows([batch for batch, _, _ in judged], append_at_ns)


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
