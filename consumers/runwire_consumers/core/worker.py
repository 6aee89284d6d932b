"""The only loop: poll, decode, batch, intent, write, commit.

Invariants, in the order in which a crash may test them:
1. Nothing is written before its intent is durable: the same spans and token come back.
2. Dead letters are durable before the commit that passes over them.
3. Nothing is committed before the sink has said that it is written.
4. While an intent is unresolved no other batch begins, so at most one batch is in doubt.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from runwire_consumers.core import kill_points
from runwire_consumers.core.backoff import Backoff
from runwire_consumers.core.batch import Batch, BatchBuilder, BatchLimits, Decoded
from runwire_consumers.core.clock import Clock, SystemClock
from runwire_consumers.core.dead_letters import DeadLetters
from runwire_consumers.core.decoding import decode_record
from runwire_consumers.core.errors import Fatal, Retryable, RowsRejected, SkipFlush
from runwire_consumers.core.health import Health
from runwire_consumers.core.patience import SLICE_S, OutOfTime, Patience
from runwire_consumers.core.selfmetrics import SelfMetrics
from runwire_consumers.core.sink import Sink
from runwire_consumers.core.source import Pending, Record, Source
from runwire_consumers.core.stop import Stop
from runwire_schemas.errors import DecodeError

_log = logging.getLogger("runwire.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker paces itself; `settings.py` says what each is for."""

    limits: BatchLimits = field(default_factory=BatchLimits)
    poll_s: float = SLICE_S
    retry_first_s: float = 0.2
    retry_max_s: float = 5.0
    shutdown_s: float = 10.0
    new_token_per_try: bool = False


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
        decode: Callable[[Record], Decoded] = decode_record,
    ) -> None:
        self._source = source
        self._sink = sink
        self._dead_letters = dead_letters
        self._options = options or WorkerOptions()
        self._clock = clock or SystemClock()
        self._stop = stop or Stop()
        self._metrics = metrics or SelfMetrics()
        self._health = health or Health(self._clock)
        self._decode = decode
        self._builder = BatchBuilder(self._options.limits, self._clock)
        self._carry: deque[Record] = deque()
        self._in_hand: Batch | None = None
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
        """Work until told to stop; return the exit status, 0 when nothing was left undone."""
        status = 1
        try:
            status = self._serve()
        except SkipFlush:
            _log.warning("second signal: the flush is skipped; %s", self._leftover())
        except OutOfTime:
            _log.warning(
                "the %.1f s for the shutdown are over; %s",
                self._options.shutdown_s,
                self._leftover(),
            )
        except Fatal as error:
            self._health.state, self._health.reason = "failed", str(error)
            _log.error("%s", error)
        except Exception:
            self._health.state = "failed"
            _log.exception("the worker ends, nothing is committed; at %s", self._coordinates())
        finally:
            self._release()
        return status

    def _serve(self) -> int:
        self._metrics.set("runwire_worker_kept_dead_letters", self._dead_letters.count())
        self._replay()
        self._health.state = "running"
        while not self._stop.is_requested:
            self._turn()
        self._health.state = "stopping"
        self._patience.begin_shutdown()
        while self._carry:
            self._gather_carry()
            self._write_open_batch()
        self._write_open_batch()
        _log.info("stopped: everything read is written and committed")
        return 0

    def _turn(self) -> None:
        if not self._carry:
            wait_s = min(self._options.poll_s, self._builder.left_s)
            self._carry.extend(self._patience.insist(lambda: self._source.poll(wait_s)))
        self._gather_carry()
        if self._builder.is_due:
            self._write_open_batch()
        elif self._builder.is_empty:
            self._health.idle()

    def _gather_carry(self) -> None:
        while self._carry and (self._is_continued() or not self._builder.is_due):
            self._gather(self._carry.popleft())
        self._health.pending = self._builder.rows + len(self._carry)
        self._metrics.set("runwire_worker_pending_rows", self._health.pending)

    def _is_continued(self) -> bool:
        """Whether the next record shares its offsets with the last: one batch holds both."""
        span = self._builder.spans.get(self._carry[0].partition)
        return span is not None and span.last >= self._carry[0].last_offset

    def _gather(self, record: Record) -> None:
        if record.damage:
            self._metrics.add("runwire_worker_dead_letters_total", reason="damage")
            self._builder.add_bad(record, record.damage)
            return
        try:
            decoded = self._decode(record)
        except DecodeError as error:
            self._metrics.add("runwire_worker_dead_letters_total", reason="decode")
            self._builder.add_bad(record, f"cannot be decoded: {error}")
        except Exception as error:
            span = f"{record.partition} {record.offset}-{record.last_offset}"
            error.add_note(f"while decoding {record.stream} record {span}")
            raise
        else:
            self._builder.add(record, decoded)

    def _replay(self) -> None:
        pending = self._patience.insist(self._source.pending)
        if pending is None:
            return
        self._health.state = "replaying"
        for record in self._records_of(pending):
            self._gather(record)
        batch = self._builder.close(pending.token)
        if batch.spans != dict(pending.spans):
            raise Fatal(
                f"batch {pending.token} cannot be rebuilt: it covers {dict(pending.spans)}, the "
                f"source yields {dict(batch.spans)}. Nothing was written. Keep the spool and "
                "report this; it must not happen"
            )
        batch = replace(batch, append_at_ns=pending.append_at_ns)
        _log.info("writing batch %s again: %d rows", batch.token, batch.rows)
        self._metrics.add("runwire_worker_replayed_batches_total")
        self._deliver(batch)

    def _records_of(self, pending: Pending) -> list[Record]:
        records: list[Record] = []
        missing = dict(pending.spans)
        while missing:
            polled = self._patience.insist(lambda: self._source.poll(SLICE_S))
            for record in polled:
                if record.last_offset >= pending.spans[record.partition].last:
                    missing.pop(record.partition, None)
            records += polled
            if not polled and self._stop.is_requested:
                raise OutOfTime
        return records

    def _write_open_batch(self) -> None:
        if self._builder.is_empty:
            return
        kill_points.reach("before-intent")
        spans = self._builder.spans
        token = self._patience.insist(lambda: self._source.intend(spans))
        kill_points.reach("after-intent")
        self._deliver(self._builder.close(token))

    def _deliver(self, batch: Batch) -> None:
        """Write the batch, however long it takes, then commit it."""
        self._in_hand = batch
        self._health.pending = batch.rows
        self._patience.insist(self._try_write)
        kill_points.reach("after-insert")
        self._patience.insist(lambda: self._source.commit(batch.spans))
        kill_points.reach("after-commit")
        self._account(self._in_hand)
        self._in_hand = None

    def _try_write(self) -> None:
        batch = self._in_hand
        assert batch is not None
        begin_s = time.perf_counter()
        while True:
            self._set_aside(batch)
            try:
                self._sink.write(batch)
                break
            except RowsRejected as error:
                # Same token: tables that took the batch already ignore the repetition.
                count = len(error.rejections)
                batch = self._in_hand = batch.without(error.rejections)
                self._metrics.add(
                    "runwire_worker_dead_letters_total", float(count), reason="rejected"
                )
            except Retryable:
                if self._options.new_token_per_try:
                    self._in_hand = replace(batch, token=self._source.intend(batch.spans))
                raise
        self._metrics.observe("runwire_worker_write_seconds", time.perf_counter() - begin_s)

    def _set_aside(self, batch: Batch) -> None:
        if not batch.dead:
            return
        for letter in batch.dead:
            self._dead_letters.put(letter)
        new = self._dead_letters.flush()
        if new:
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
        rows = self._builder.rows + (self._in_hand.rows if self._in_hand else 0)
        return (
            f"{rows} rows that were read are not committed; they stay at the source and are "
            "written at the next start"
        )

    def _coordinates(self) -> str:
        spans = self._in_hand.spans if self._in_hand else self._builder.spans
        shown = [f"{partition} {s.first}-{s.last}" for partition, s in list(spans.items())[:5]]
        token = f"batch {self._in_hand.token}: " if self._in_hand else ""
        more = f" and {len(spans) - 5} more" if len(spans) > 5 else ""
        return token + (", ".join(shown) or "no open batch") + more

    def _release(self) -> None:
        deadline = self._patience.begin_shutdown()
        for name, close in (("source", self._source.close), ("sink", self._sink.close)):
            try:
                close(deadline)
            except (Exception, SkipFlush):
                _log.exception("the %s did not close in order", name)
