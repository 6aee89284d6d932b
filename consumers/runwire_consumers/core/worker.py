"""The only loop: poll, decode, batch, intent, write, commit.

Invariants, in the order in which a crash may test them:
1. Nothing is written before its intent is durable: a restart gets the same spans, token and pieces.
2. Dead letters are durable before the commit that passes over them.
3. Nothing is committed before the sink has confirmed its write.
4. While an intent is unresolved no other batch of its partitions begins.
5. Records of a partition that moved to another worker are dropped: the other one writes them.
6. Blocks may be prepared before their intent, beside the last write: this has no effect outside,
   and blocks belong to their batch, so that they are dropped with it.
"""

import logging
from collections import deque
from dataclasses import dataclass, field

from runwire_consumers.core.batch import (
    DECODER,
    Batch,
    BatchBuilder,
    BatchLimits,
    Decoded,
    Decoder,
    OpenBatches,
)
from runwire_consumers.core.clock import Clock, SystemClock
from runwire_consumers.core.dead_letters import DeadLetters, letter_of
from runwire_consumers.core.errors import Fatal, PiecesNeeded, Retryable, SkipFlush
from runwire_consumers.core.health import Health, SelfMetrics
from runwire_consumers.core.patience import SLICE_S, Backoff, OutOfTime, Patience, Stop
from runwire_consumers.core.sink import Sink
from runwire_consumers.core.source import Pending, Record, Source
from runwire_consumers.core.write_round import WriteRound
from runwire_schemas.errors import DecodeError

_log = logging.getLogger("runwire.worker")

# After a wait in vain the registry is not waited for during this many times the wait.
REGISTRY_RESTS = 10.0
UNREAD = "cannot be decoded without the schema registry"  # begins the reasons of such letters


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Limits and pauses of the loop; `settings.py` describes each.

    `overlap` writes one round of batches while the next is read and its blocks are prepared; the
    source must allow polls while its intents are pending.
    """

    limits: BatchLimits = field(default_factory=BatchLimits)
    poll_s: float = SLICE_S
    retry_first_s: float = 0.2
    retry_max_s: float = 5.0
    shutdown_s: float = 10.0
    registry_wait_s: float = 60.0
    overlap: bool = False


class Worker:
    """Moves records from one source to one sink, each exactly once.

    Threads: one; only `stop.signal` may be called from a signal handler.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        dead_letters: DeadLetters,
        *,
        options: WorkerOptions | None = None,
        clock: Clock | None = None,
        stop: Stop | None = None,
        metrics: SelfMetrics | None = None,
        health: Health | None = None,
        decoder: Decoder = DECODER,
    ) -> None:
        self._source = source
        self._sink = sink
        self._dead_letters = dead_letters
        self._options = options or WorkerOptions()
        self._clock = clock or SystemClock()
        self._stop = stop or Stop()
        self._metrics = metrics or SelfMetrics()
        self._health = health or Health(self._clock)
        self._decode = decoder.one
        self._decode_many = decoder.many
        self._open = OpenBatches(self._options.limits, self._clock, source.lane)
        self._closed: list[Batch] = []  # their intents come next
        self._carry: deque[tuple[Record, Decoded | None]] = deque()
        self._pending: list[Pending] = []
        self._cut_level = logging.WARNING
        self._no_wait_until_s = float("-inf")  # the registry was waited for, in vain
        self._round = WriteRound(sink, dead_letters, self._metrics, self._report_dead)
        self._patience = Patience(
            source,
            backoff=Backoff(self._options.retry_first_s, self._options.retry_max_s),
            clock=self._clock,
            stop=self._stop,
            shutdown_s=self._options.shutdown_s,
            health=self._health,
            metrics=self._metrics,
        )

    def run(self) -> int:
        """Work until a stop is requested; return 0 when everything read is committed, else 1."""
        status = 1
        try:
            status = self._serve()
        except SkipFlush:
            _log.warning("second signal: the flush is skipped; %s", self._leftover())
        except OutOfTime:
            shutdown_s = self._options.shutdown_s
            _log.warning("the shutdown ran out of its %.1f s; %s", shutdown_s, self._leftover())
        except Fatal as error:
            self._health.state, self._health.reason = "failed", str(error)
            _log.error("%s", error)
        except Exception:
            self._health.state = "failed"
            _log.exception(
                "the worker failed and exits without a commit; at %s", self._coordinates()
            )
        finally:
            self._release()
        return status

    def _serve(self) -> int:
        kept = self._patience.insist(self._dead_letters.count)
        self._metrics.set("runwire_worker_kept_dead_letters", kept)
        self._replay()
        self._health.state = "running"
        while not self._stop.is_requested:
            self._turn()
        self._health.state = "stopping"
        self._patience.begin_shutdown()
        while self._carry:
            self._gather_carry()
            self._write_open_batches()
        self._write_open_batches()
        self._settle()
        _log.info("stopped: everything read is written and committed")
        return 0

    def _turn(self) -> None:
        if self._round.is_active and self._open.is_full:
            self._write_open_batches()
        elif self._round.is_active and self._round.is_over:
            self._settle()
        if not self._carry:
            wait_s = min(self._options.poll_s, self._open.left_s)
            if self._round.is_active:
                wait_s = self._options.poll_s / 10  # an idle source must not delay the commit
            polled = self._patience.insist(lambda: self._source.poll(wait_s))
            self._drop_revoked()  # first: the records just polled may be of a partition won back
            self._carry.extend(zip(polled, self._decode_many(polled), strict=True))
            self._replay()
        self._gather_carry()
        if self._open.is_due and not self._round.is_active:
            self._write_open_batches()
        elif self._open.is_empty and not self._round.is_active:
            self._health.idle()

    def _gather_carry(self) -> None:
        while self._carry and (not self._open.is_full or self._open.continues(self._carry[0][0])):
            record, decoded = self._carry.popleft()
            if decoded is None:
                self._gather(record, self._open)
            else:
                self._open.add(record, decoded)
        self._health.pending = self._open.rows + len(self._carry)
        self._metrics.set("runwire_worker_pending_rows", self._health.pending)

    def _gather(
        self, record: Record, into: OpenBatches | BatchBuilder, *, is_in_pieces: bool = False
    ) -> None:
        if record.damage:
            self._metrics.add("runwire_worker_dead_letters_total", reason="damage")
            into.add_bad(record, record.damage)
            return
        try:
            decode = self._decode_as_before if is_in_pieces else self._decode_patiently
            decoded = decode(record)
        except Retryable as error:
            self._metrics.add("runwire_worker_dead_letters_total", reason="decode")
            reason = f"{UNREAD}: {error}; replay it later"
            into.add_bad(record, reason)
        except DecodeError as error:
            self._metrics.add("runwire_worker_dead_letters_total", reason="decode")
            into.add_bad(record, f"cannot be decoded: {error}")
        except Exception as error:
            span = f"{record.partition} {record.offset}-{record.last_offset}"
            error.add_note(f"while decoding {record.stream} record {span}")
            raise
        else:
            into.add(record, decoded)

    def _decode_patiently(self, record: Record) -> Decoded:
        """Decode a record; while a registry does not answer (kafka/schema_ids.py), wait.

        One record with a foreign schema must not stop all partitions, so the waiting is bounded:
        once for an outage, and again when it lasts.
        Raises: Retryable when it is over, DecodeError.
        """
        try:
            return self._decode(record)
        except Retryable:
            if self._clock.monotonic_s() < self._no_wait_until_s:
                raise
        wait_s = self._options.registry_wait_s
        try:
            decoded = self._patience.insist(lambda: self._decode(record), within_s=wait_s)
        except Retryable:
            self._no_wait_until_s = self._clock.monotonic_s() + REGISTRY_RESTS * wait_s
            raise
        return decoded

    def _decode_as_before(self, record: Record) -> Decoded:
        """Decode a record of a batch that is written in pieces, with the outcome of the first time.

        Without it the records behind would move to places whose tokens are used, and be lost. So a
        record without a letter is waited for, however long the registry does not answer.
        Raises: Retryable for one that has its letter, DecodeError.
        """
        try:
            return self._decode(record)
        except Retryable:
            letters = self._patience.insist(self._dead_letters.read)
            if letter_of(record, "", at_ns=0).id in {letter.id for letter in letters}:
                raise
        return self._patience.insist(lambda: self._decode(record))

    def _replay(self) -> None:
        """Write the batches of earlier owners before anything newer of their partitions."""
        self._pending += self._patience.insist(self._source.pending)
        if not self._pending:
            return
        self._settle()  # may take long enough for some of them to move to another worker
        self._health.state = "replaying"
        pending, self._pending = self._pending, []
        self._deliver([self._rebuild(one) for one in pending])
        self._settle()
        self._health.state = "running"

    def _rebuild(self, pending: Pending) -> Batch:
        builder = BatchBuilder()
        is_in_pieces = bool(pending.pieces.sizes)
        unread = self._patience.insist(self._read_unread) if is_in_pieces else {}
        for record, decoded in zip(
            pending.records, self._decode_many(pending.records), strict=True
        ):
            if unread and (reason := unread.get(letter_of(record, "", at_ns=0).id)):
                builder.add_bad(record, reason)  # as before, although it can be read by now
            elif decoded is None:
                self._gather(record, builder, is_in_pieces=is_in_pieces)
            else:
                builder.add(record, decoded)
        batch = builder.close_again(pending)
        _log.info("writing batch %s again: %d rows", batch.token, batch.rows)
        self._metrics.add("runwire_worker_replayed_batches_total")
        return batch

    def _read_unread(self) -> dict[str, str]:
        """Return why records were set aside for want of the registry, by the id of the letter."""
        letters = self._dead_letters.read()
        return {one.id: one.reason for one in letters if one.reason.startswith(UNREAD)}

    def _drop_revoked(self) -> None:
        if not (lost := self._source.revoked()):
            return
        self._metrics.add("runwire_worker_revoked_partitions_total", len(lost))
        self._open.drop(lost)
        self._closed = [batch for batch in self._closed if lost.isdisjoint(batch.spans)]
        self._carry = deque(pair for pair in self._carry if pair[0].partition not in lost)
        self._pending = [one for one in self._pending if lost.isdisjoint(one.spans)]
        self._round.drop(lost)

    def _write_open_batches(self) -> None:
        self._closed = self._open.close()
        if not self._round.is_over:
            self._closed = self._sink.prepare(self._closed)
        self._settle()
        if self._closed:
            tokens = self._patience.insist(self._try_intend)
            named = zip(self._closed, tokens, strict=True)
            batches = [batch.named(token) for batch, token in named]
            self._closed = []
            self._deliver(batches)

    def _try_intend(self) -> list[str]:
        self._drop_revoked()
        return self._source.intend([batch.spans for batch in self._closed]) if self._closed else []

    def _deliver(self, batches: list[Batch]) -> None:
        """Begin to write the batches; `_settle` commits them."""
        self._round.begin(batches)
        self._health.pending = sum(batch.rows for batch in batches)
        if self._options.overlap and batches:
            self._round.launch()
        else:
            self._settle()

    def _settle(self) -> None:
        """Write the current round, however long it takes, then commit it in one call."""
        if not self._round.is_active:
            return
        self._patience.insist(self._try_write)
        self._patience.insist(self._try_commit)
        for batch in self._round.batches:
            self._account(batch)
        self._round.clear()

    def _try_write(self) -> None:
        while True:
            self._drop_revoked()
            try:
                self._round.finish()
                return
            except PiecesNeeded as need:
                for batch in self._round.batches:
                    if batch.token == need.token:
                        self._source.cut(batch.spans, need.pieces)
                self._round.cut(need)
                # Each batch of a busy worker may be cut: the first one says it.
                level, self._cut_level = self._cut_level, logging.DEBUG
                _log.log(level, "batch %s is written in pieces: %s", need.token, need.reason)

    def _try_commit(self) -> None:
        self._drop_revoked()
        if self._round.spans:
            self._source.commit(self._round.spans)

    def _report_dead(self, new: int, batch: Batch) -> None:
        _log.warning("%d records set aside as dead letters: %s", new, batch.dead[-1].reason)
        self._metrics.set("runwire_worker_kept_dead_letters", self._dead_letters.count())

    def _account(self, batch: Batch) -> None:
        self._health.wrote()
        metrics = self._metrics
        metrics.add("runwire_worker_batches_total")
        metrics.add("runwire_worker_points_total", batch.points)
        metrics.add("runwire_worker_rows_total", batch.points, kind="metric")
        for kind, rows in batch.events.items():
            metrics.add("runwire_worker_rows_total", len(rows), kind=kind)
        now_ns = self._clock.unix_ns()
        metrics.set("runwire_worker_last_write_timestamp_seconds", now_ns / 1e9)
        metrics.set("runwire_worker_delay_seconds", max(0, now_ns - batch.append_at_ns) / 1e9)
        metrics.set("runwire_worker_pending_rows", 0)

    def _leftover(self) -> str:
        closed = [*self._closed, *self._round.batches]
        rows = self._open.rows + sum(batch.rows for batch in closed)
        return (
            f"{rows} rows that were read are not committed; they stay at the source and are "
            "written after the next start"
        )

    def _coordinates(self) -> str:
        batches = self._round.batches
        groups = [batch.spans for batch in batches or self._closed] or self._open.spans
        shown = [f"{p} {s.first}-{s.last}" for spans in groups for p, s in spans.items()]
        token = f"batch {batches[0].token}: " if batches else ""
        more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
        return token + (", ".join(shown[:5]) or "no open batch") + more

    def _release(self) -> None:
        deadline = self._patience.begin_shutdown()
        for name, close in (("source", self._source.close), ("sink", self._sink.close)):
            try:
                close(deadline)
            except (Exception, SkipFlush):
                _log.exception("closing the %s failed", name)
