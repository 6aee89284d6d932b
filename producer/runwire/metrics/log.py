"""The hot path: one `log()` call becomes one committed record in the metric series.

This file is about the cost per call (benchmarks/caller_cost.py). The fast path looks up the
tuple of keys, checks types against the last call with these keys, packs doubles, stores the body
and then one commit word. Unusual calls take `_slow`. No I/O, no thread, no network.
"""

from __future__ import annotations

import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runwire.metrics.cuda import PendingCalls
from runwire.metrics.sorter import ValueSorter
from runwire.metrics.store import Layout, MetricStore, Stamp
from runwire.metrics.values import FLOAT_EXACT_MAX, instant_ns, no_mapping, whole_step
from runwire_disk.spool.format import LAST_WORD, SpoolError
from runwire_disk.spool.quota import QuotaExceeded
from runwire_disk.spool.series_writer import RecordTooLarge
from runwire_disk.spool.writer import SpoolWriter

_crc32, _time_ns = zlib.crc32, time.time_ns
_LOW, _HIGH = -FLOAT_EXACT_MAX, FLOAT_EXACT_MAX
# How often the fast path looks whether the spool still exists.
CHECK_INTERVAL_NS = 1_000_000_000


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
        self._try = self._lock.acquire
        self._release = self._lock.release
        self._store = MetricStore(writer)
        self._layouts = self._store.layouts
        self._step = first_step
        self._check_at = 0
        self._report = report
        self._sorter = ValueSorter(writer.count_dropped, report, on_text)
        self._given_up = 0
        self._uncommitted: dict[str, Any] = {}
        self._reentrant: deque[tuple[dict[str, Any], int | None]] = deque()
        self._cuda = PendingCalls(self._resolved)

    def log(
        self,
        data: Mapping[str, Any],
        step: int | None = None,
        *,
        commit: bool = True,
        ts: Any = None,
        sync: bool = False,
    ) -> None:
        """Log scalars (and text) at `step`, the next one when it is None.

        Raises: nothing unless strict. Blocks: never on I/O; `sync` waits for CUDA values.
        """
        try:
            layout, values = self._layouts.get(tuple(data)), data.values()
            try:
                # One pass in C over all values: only floats, ints and bools add up to a float.
                total = layout.total(values, 0.0)  # type: ignore[union-attr]
            except Exception:
                total = None
            if (
                layout is None
                # Nearer to zero than this an int is exact; NaN and Inf take the second test.
                or not ((type(total) is float and _LOW < total < _HIGH) or layout.fits(values))
                or not commit
                or ts is not None
                or not (step is None or type(step) is int)
                or self._check_at < (at_ns := _time_ns())
            ):
                self._slow(data, step, commit=commit, ts=ts, sync=sync)
                return
            if not self._try(False) and not self._wait(data, step):
                return
            try:
                series = self._series
                offset, seq, call, accepted = series.state
                segment, end = series.segment, offset + layout.size
                # Another thread may have opened a segment, which knows no layout of the old one.
                if (
                    end > series.limit
                    or segment is None
                    or segment is not layout.segment
                    or segment.words[offset >> 3]
                ):
                    self._store_slowly(layout, tuple(values), step, at_ns)
                    return
                step = self._step if step is None else step
                accepted += layout.n
                body = layout.pack(seq, call, at_ns, step, accepted, layout.tag, *values)
                segment.bytes[offset + 8 : end] = body
                segment.words[offset >> 3] = _crc32(body, layout.low) << 32 | layout.low
                series.state = (end, seq + 1, call + 1, accepted)
                segment.words[LAST_WORD] = offset
                self._step = step + 1
                layout.last = body
            finally:
                self._release()
        except Exception as exc:
            self._failed(data, exc)

    def _failed(self, data: object, exc: Exception) -> None:
        """Report a failure of `log`, and count the points that it may have cost."""
        if isinstance(data, Mapping):
            self._writer.count_dropped("other", len(data))
        else:
            exc = no_mapping(data)
        self._report("log", exc)

    def _slow(
        self, data: Mapping[str, Any], step: Any, *, commit: bool, ts: Any, sync: bool
    ) -> None:
        now = _time_ns()
        if self._check_at < now:
            self._check_at = now + CHECK_INTERVAL_NS
            self._periodic()
        if not isinstance(data, Mapping):
            raise no_mapping(data)
        at_ns = now if ts is None else instant_ns(ts)
        step = whole_step(step)
        if not commit:
            self._uncommitted.update(data)
            self._check_at = 0  # the next call comes here too
            self._step = self._step if step is None else step
            return
        if self._uncommitted:
            data, self._uncommitted = {**self._uncommitted, **data}, {}
        numbers, cuda = self._sorter.sort(data, self._step if step is None else step)
        if not (self._try(False) or self._wait(numbers, step)):
            return
        try:
            number = self._step if step is None else step
            self._step = number + 1
            if cuda:
                offset, seq, call, accepted = self._series.state
                self._series.state = (offset, seq, call + 1, accepted)
                self._cuda.add((call, at_ns, number), cuda)
            if numbers or not data:  # a call without values still shows how far the trainer is
                names, values = tuple(numbers), tuple(numbers.values())
                self._store_next(names, values, number, at_ns)
            if (layout := self._layouts.get(tuple(data))) is not None:
                layout.saw(data.values())
        finally:
            self._release()
        if self._cuda:
            self._cuda.poll(wait=sync)

    def _store_slowly(
        self, layout: Layout, values: tuple[Any, ...], step: int | None, at_ns: int
    ) -> None:
        """Store a call whose record needs a new segment. The caller holds the lock."""
        number = self._step if step is None else step
        self._step = number + 1
        self._store_next(layout.names, values, number, at_ns)

    def _store_next(
        self, names: tuple[str, ...], values: tuple[Any, ...], step: int, at_ns: int
    ) -> None:
        call = self._series.state[2]
        self._store_call((call, at_ns, step), names, values)
        offset, seq, _, accepted = self._series.state
        self._series.state = (offset, seq, call + 1, accepted)

    def _store_call(self, stamp: Stamp, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
        try:
            self._store.add(stamp, names, values)
        except (OSError, RecordTooLarge) as exc:
            reason = self._writer.refused(self._series, exc)
            self._report(f"log: {reason}", exc, hint=self._writer.advice(reason))
        if self._writer.given_up != self._given_up:
            given_up, self._given_up = self._writer.given_up - self._given_up, self._writer.given_up
            full = QuotaExceeded(f"the oldest {given_up} unread points gave way to newer ones")
            hint = self._writer.advice(self._writer.eviction_cause)
            self._report("keeping every point", full, hint=hint)

    def _resolved(self, stamp: Stamp, names: Iterable[str], values: Iterable[float] | None) -> None:
        """Store CUDA values that arrived, or count them when they never will."""
        keys = tuple(names)
        if values is None:
            self._writer.count_dropped("unresolved", len(keys))
            return
        with self._lock:
            self._store_call(stamp, keys, tuple(values))

    def _wait(self, data: Mapping[str, Any], step: int | None) -> bool:
        """Get the lock that was taken; false when this very thread holds it further up.

        A signal handler may log while it interrupts `log`: waiting would never end, so the call
        is kept and stored by the next one.
        """
        frame = sys._getframe(2)  # noqa: SLF001 - the documented way to see one's own callers
        own = {MetricLog.log.__code__, MetricLog._slow.__code__, MetricLog._resolved.__code__}
        while frame := frame.f_back:  # type: ignore[assignment]
            if frame.f_code in own and frame.f_locals.get("self") is self:
                self._reentrant.append((dict(data), step))
                self._check_at = 0
                return False
        return self._lock.acquire()

    def _periodic(self) -> None:
        while self._reentrant:
            data, step = self._reentrant.popleft()
            self.log(data, step)
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

    def last(self) -> dict[str, Any]:
        """Return the last value of every metric, as `summary` shows them."""
        with self._lock:
            return self._store.last()

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
            self.log({}, None)
        self._cuda.poll(wait=True)

    def reset_after_fork(self) -> None:
        """Make the lock usable in a child whose parent held it while forking."""
        self._series.lock = self._lock = threading.Lock()
        self._try, self._release = self._lock.acquire, self._lock.release
