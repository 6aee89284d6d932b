"""The hot path: one `log()` call becomes one committed record in the metric series.

This file is about the cost per call (benchmarks/caller_cost.py). The fast path looks up the
tuple of keys, checks types against the last call with these keys, packs doubles, stores the body
and then one commit word. Unusual calls take `_slow`. No I/O, no thread, no network.

Ctrl-C and the exceptions of signal handlers may strike between any two bytecodes. They reach the
user, and the next call finds the series whole (`runwire_disk.spool.series_writer`).
"""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runwire.arguments import declared
from runwire.conversion import ANY, FLAG, INSTANT, STEP, ArgumentKind, shown
from runwire.metrics.cuda import PendingCalls
from runwire.metrics.sorter import ValueSorter
from runwire.metrics.store import Layout, MetricStore, Stamp
from runwire.metrics.values import FLOAT_EXACT_MAX, PLAIN, Unloggable, no_mapping
from runwire.other_trackers import missing_argument
from runwire_disk.interrupts import is_interrupt, reraise_interrupt
from runwire_disk.spool.format import LAST_WORD, SpoolError
from runwire_disk.spool.quota import QuotaExceeded
from runwire_disk.spool.series_lock import holds_series
from runwire_disk.spool.series_writer import RecordTooLarge, SeriesClosed
from runwire_disk.spool.writer import SpoolWriter

_crc32, _time_ns = zlib.crc32, time.time_ns
_LOW, _HIGH = -FLOAT_EXACT_MAX, FLOAT_EXACT_MAX
# How often the fast path looks whether the spool still exists.
CHECK_INTERVAL_NS = 1_000_000_000
# Calls of signal handlers that wait in memory; each is stored by the next ordinary call.
KEPT_MAX = 4096


_COMMITS = True


def _nothing(_item: str, _error: Exception) -> None:
    """Ignore parts that are left out: no argument of `log` but the values has parts."""


class MetricLog:
    """Logs scalars of one writer. Threads: safe; also from a signal handler inside `log`."""

    def __init__(
        self,
        writer: SpoolWriter,
        *,
        report: Callable[..., None],
        on_text: Callable[[str, str, int], None],
        first_step: int = 0,
    ) -> None:
        self._writer = writer
        self._series = writer.series["metric"]
        self._lock = self._series.lock
        self._store = MetricStore(writer)
        self._layouts = self._store.layouts
        self._step = first_step
        self._check_at = 0
        self._report = report
        self._sorter = ValueSorter(writer.count_dropped, report, on_text)
        self._given_up = 0
        self._last: dict[str, Any] = {}
        self._last_at: tuple[int, ...] = ()
        # Values of `commit=False`, and their step. Replaced, never changed.
        self._uncommitted: dict[str, Any] = {}
        self._uncommitted_step = first_step
        self._kept: deque[tuple[dict[str, Any], int | None, int]] = deque()
        self._cuda = PendingCalls(self._resolved)

    @declared(data=ANY, step=STEP, rest=ANY, commit=FLAG, ts=INSTANT, sync=FLAG)
    @holds_series
    def log(
        self, data: Any = None, step: int | None = None, *rest: Any,
        commit: bool = True, ts: Any = None, sync: bool = False, **unknown: Any,
    ) -> None:  # fmt: skip
        """Log scalars and texts at `step`, else at the next one; report `rest` and `unknown`.

        Raises: nothing unless strict. Blocks: never on I/O; `sync` waits for CUDA values.
        """
        try:
            if rest or unknown:
                self._leave_out(rest, unknown)
            if (layout := self._layouts.get(tuple(data))) is None:
                self._slow(data, step, commit=commit, ts=ts, sync=sync)
                return
            values = data.values()
            try:
                # One pass in C over all values: only floats, ints and bools add up to a float.
                total = layout.total(values, 0.0)
            except Exception as exc:
                reraise_interrupt(exc)
                total = None
            if (
                # Nearer to zero than this an int is exact; NaN and Inf take the second test.
                not (
                    (type(total) is float and _LOW < total < _HIGH)
                    or (values := layout.numbers(values)) is not None
                )
                or commit is not True
                or ts is not None
                or not (step is None or (type(step) is int and _LOW < step < _HIGH))
                or self._check_at < (at_ns := _time_ns())
            ):
                self._slow(data, step, commit=commit, ts=ts, sync=sync)
                return
            series, lock = self._series, self._lock.inner
            if not lock.acquire(False) and (lock := self._wait(data, step, at_ns)) is None:
                return
            try:
                offset, seq, call, accepted = series.state
                segment, end = layout.segment, offset + layout.size
                # Another thread may have opened a segment, which knows no layout of the old one.
                if end > series.ahead or segment is not series.segment or series.is_storing:
                    self._store_slowly(layout, tuple(values), step, at_ns)
                    return
                step = self._step if step is None else step
                accepted += layout.n
                body = layout.pack(seq, call, at_ns, step, accepted, layout.tag, *values)
                self._step = step + 1  # first: Ctrl-C must not leave it to the next call
                series.is_storing = True
                words = segment.words
                segment.bytes[offset + 8 : end] = body
                words[offset >> 3] = _crc32(body, layout.low) << 32 | layout.low
                series.state = (end, seq + 1, call + 1, accepted)
                words[LAST_WORD] = offset
                layout.last = body
                series.is_storing = False
            finally:
                lock.release()
        except Exception as exc:
            self._failed(data, exc)

    def _leave_out(self, rest: tuple[Any, ...], unknown: Mapping[str, Any]) -> None:
        """Report the arguments that `log` does not have. Raises: as `report`."""
        left = [
            (name, name, f"{missing_argument(name)}; give values as log({{name: value}})")
            for name in unknown
        ]
        # One kind for all values: a loop may give another one in each call.
        by_position = "only data and step are given by position"
        left += [("data, step, ...", shown(value), by_position) for value in rest]
        for kind, argument, sentence in left:
            problem = Unloggable(sentence)
            hint = f"{argument} is left out, the rest of the call is kept."
            self._report(f"log({kind})", problem, hint=hint)

    def _failed(self, data: object, exc: Exception) -> None:
        """Report a failure of `log`, and count the points that it may have cost."""
        reraise_interrupt(exc)
        points = 0
        try:
            if isinstance(data, Mapping):
                points = len(data)
            elif not isinstance(exc, Unloggable):
                exc = no_mapping(data)
        except Exception as failure:  # of a user's class
            reraise_interrupt(failure)
            points = 1
        if points:
            self._writer.count_dropped("other", points)
        self._report("log", exc)

    def _slow(
        self, data: Mapping[str, Any], step: Any, *, commit: bool, ts: Any, sync: bool
    ) -> None:
        now = _time_ns()
        if self._check_at < now:
            self._check_at = now + CHECK_INTERVAL_NS
            self._periodic()
        if type(data) is not dict and not isinstance(data, Mapping):
            raise no_mapping(data)
        at_ns = now if ts is None else self._plain("ts", INSTANT, ts, now)
        step = self._plain("step", STEP, step, None)
        number = self._step if step is None else step
        waiting = self._uncommitted
        if waiting and number != self._uncommitted_step:
            following = self._step
            self._commit({}, self._uncommitted_step, at_ns)
            if following != self._uncommitted_step:  # the user set another one meanwhile
                self._step = following
        if commit is True or self._plain("commit", FLAG, commit, _COMMITS):
            self._commit(data, step, at_ns)
        else:
            self._uncommitted = {**self._uncommitted, **data}
            self._uncommitted_step = self._step = number
            self._check_at = 0  # the next call comes here too
        if self._cuda:
            self._cuda.poll(wait=self._plain("sync", FLAG, sync, None))

    def _commit(self, data: Mapping[str, Any], step: int | None, at_ns: int) -> None:
        """Store a call, and with it the values of `commit=False` calls that wait for it."""
        waiting = self._uncommitted
        if not waiting:
            self._store_values(data, step, at_ns)
            return
        try:
            self._store_values({**waiting, **data}, step, at_ns)
        except Exception as exc:
            reraise_interrupt(exc)
            self._uncommitted = {}  # or each later call would fail too
            raise
        if self._uncommitted is waiting:  # else another thread has added to them
            self._uncommitted = {}

    @holds_series
    def _store_values(self, data: Mapping[str, Any], step: int | None, at_ns: int) -> None:
        numbers, cuda = self._sorter.sort(data, self._step if step is None else step)
        series = self._series
        lock = self._lock.take()
        if lock is None:
            self._keep({**numbers, **cuda}, step, at_ns)
            return
        try:
            series.settle()  # an interrupted call may have used the next number
            number = self._step if step is None else step
            self._follow(number)
            if cuda:
                offset, seq, call, accepted = series.state
                series.state = (offset, seq, call + 1, accepted)
                self._cuda.add((call, at_ns, number), cuda)
            if numbers or not data:  # a call without values still shows how far the trainer is
                names, values = tuple(numbers), tuple(numbers.values())
                self._store_next(names, values, number, at_ns)
            is_plain = type(data) is dict and PLAIN.issuperset(map(type, data.values()))
            if not is_plain and (layout := self._layouts.get(tuple(data))) is not None:
                layout.saw(data.values())
        finally:
            lock.release()

    def _follow(self, number: int) -> None:
        """Let the next call without a step follow this one.

        Not a huge one (a hash, a time in nanoseconds): the count would never come back from it.
        """
        if _LOW < number < _HIGH:
            self._step = number + 1

    def _plain(self, argument: str, kind: ArgumentKind, value: Any, instead: Any) -> Any:
        """Return an argument converted, or `instead` if it cannot be: the values are kept."""
        try:
            return instead if value is None else kind.plain(value, _nothing)
        except Exception as exc:  # of a user's class
            reraise_interrupt(exc)
            problem = Unloggable(f"{argument}={shown(value)} is not {kind.takes}")
            problem.__cause__ = exc
            hint = f"{argument} is left out, the rest of the call is kept."
            self._report(f"log({argument}=)", problem, hint=hint)
            return instead

    def _store_slowly(
        self, layout: Layout, values: tuple[Any, ...], step: int | None, at_ns: int
    ) -> None:
        """Store a call that needs more pages or a new segment. The caller holds the lock."""
        self._series.settle()  # an interrupted call may have used the next number
        number = self._step if step is None else step
        self._follow(number)
        self._store_next(layout.names, values, number, at_ns)

    def _store_next(
        self, names: tuple[str, ...], values: tuple[Any, ...], step: int, at_ns: int
    ) -> None:
        call = self._series.state[2]
        self._store_call((call, at_ns, step), names, values)
        offset, seq, following, accepted = self._series.state
        if following == call:  # it was dropped, and counts as a call all the same
            self._series.state = (offset, seq, call + 1, accepted)

    def _store_call(self, stamp: Stamp, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
        try:
            self._store.add(stamp, names, values)
        except (OSError, RecordTooLarge, SeriesClosed) as exc:
            reason = self._writer.refused(self._series, exc)
            self._report(f"log: {reason}", exc, hint=self._writer.advice(reason, exc))
        if self._writer.given_up != self._given_up:
            given_up, self._given_up = self._writer.given_up - self._given_up, self._writer.given_up
            full = QuotaExceeded(f"the oldest {given_up} unread points gave way to newer ones")
            hint = self._writer.advice(self._writer.eviction_cause)
            self._report("keeping every point", full, hint=hint)

    @holds_series
    def _resolved(self, stamp: Stamp, names: Iterable[str], values: Iterable[float] | None) -> None:
        """Store CUDA values that arrived, or count them when they never will."""
        keys = tuple(names)
        if values is None:
            self._writer.count_dropped("unresolved", len(keys))
            return
        series = self._series
        lock = series.lock.take()
        if lock is None:
            _, at_ns, step = stamp
            self._keep(dict(zip(keys, values, strict=True)), step, at_ns)
            return
        try:
            self._store_call(stamp, keys, tuple(values))
        finally:
            lock.release()

    def _wait(self, data: Mapping[str, Any], step: int | None, at_ns: int) -> Any:
        """Get the lock that was taken; None when the call is kept for later instead.

        A signal handler may log while it interrupts `log`: waiting would never end.
        """
        lock = self._lock.take()
        if lock is None:
            self._keep(dict(data), step, at_ns)
        return lock

    def _keep(self, data: dict[str, Any], step: int | None, at_ns: int) -> None:
        if len(self._kept) >= KEPT_MAX:
            self._writer.count_dropped("other", len(data))
            return
        self._kept.append((data, step, at_ns))
        self._check_at = 0

    def _periodic(self) -> None:
        for _ in range(len(self._kept)):
            call = self._kept.popleft()
            try:
                self._store_values(*call)
            except BaseException as exc:
                if not isinstance(exc, Exception) or is_interrupt(exc):
                    self._kept.appendleft(call)
                raise
        segment = self._series.segment
        if self._writer.is_homeless or (segment is not None and not segment.is_linked()):
            self._recover_deleted()

    def _recover_deleted(self) -> None:
        try:
            lost = self._writer.recover_deleted()
        except SpoolError as error:
            self._report("log: unwritable", error)
            return
        gone = SpoolError(
            f"{self._writer.folder} was deleted while this run wrote to it; up to {lost} "
            "points in it are lost, a new folder takes the next ones"
        )
        self._report("keeping the spool", gone, hint=self._writer.advice("deleted"))

    @holds_series
    def last(self) -> dict[str, Any]:
        """Return the last value of every metric, as `summary` shows them."""
        series = self._series
        lock = series.lock.take()
        try:
            # `dict(summary)` asks for each name: the answer changes with the next call only.
            if self._last_at != series.state:
                self._last, self._last_at = self._store.last(), series.state
            return self._last
        finally:
            if lock is not None:
                lock.release()

    @property
    def step(self) -> int:
        """The step that the next call without one gets."""
        return self._step

    @step.setter
    def step(self, value: int) -> None:
        self._step = value

    def drain(self) -> None:
        """Store the waiting values: uncommitted ones, calls of signal handlers, CUDA values."""
        self._periodic()
        if self._uncommitted:
            self._commit({}, self._uncommitted_step, _time_ns())
        self._cuda.poll(wait=True)

    def hand_over(self, log: Callable[..., None]) -> None:
        """Let `log` do the calls of whoever kept `run.log`: this process inherited the writer."""
        self._layouts.clear()  # so that every call is a slow one
        self._slow = log  # type: ignore[method-assign]
