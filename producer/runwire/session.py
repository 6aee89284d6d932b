"""The part of a run that owns files: its spool writer, metric log and place in the job."""

from __future__ import annotations

import functools
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runwire.errors import RunwireError
from runwire.guard import Guard
from runwire.job import known_runs
from runwire.metrics.log import MetricLog
from runwire.report import FlushReport
from runwire.settings import Settings
from runwire_disk.spool.format import KIND_SERIES, Meta, read_cursor
from runwire_disk.spool.writer import SpoolWriter

if TYPE_CHECKING:
    from runwire.outbox.outbox import Outbox

# How often `wait_stored` looks at the reader's cursor.
_LOOK_INTERVAL_S = 0.02


class Session:
    """Writer of one process for one run; without one (`disabled`) everything is accepted unseen."""

    def __init__(
        self,
        settings: Settings,
        meta: Meta,
        guard: Guard,
        *,
        environment: Mapping[str, str] | None = None,
        first_step: int = 0,
        values_wanted: bool = True,
        owner: bool = True,
    ) -> None:
        self.settings, self.meta, self.guard = settings, meta, guard
        self.environment = dict(environment or {})
        self._first_step = first_step
        self._values_wanted = values_wanted
        self._writer: SpoolWriter | None = None
        self._metrics: MetricLog | None = None
        self._closed = FlushReport()
        self._is_closed = False
        # In a process that inherited the run: opens its own writer at the first record.
        self._open_late: Callable[[], bool] | None = None
        self._owner_pid = meta.pid if owner else -1
        if owner and settings.mode != "disabled":
            self._writer = self._create_writer()

    def bind_log(self, run: Any) -> Callable[..., None]:
        """Return the function behind `run.log`."""
        if self._writer is None:
            return _accept_unseen
        owner = weakref.ref(run)

        def on_text(name: str, text: str, step: int) -> None:
            alive = owner()
            if alive is not None:
                alive._emit_text(name, text, step)  # noqa: SLF001 - the run's own session

        self._metrics = MetricLog(
            self._writer, report=self.guard.report, on_text=on_text, first_step=self._first_step
        )
        log = self._metrics.log
        if self._values_wanted:
            return log

        def progress_only(_: Mapping[str, Any], step: int | None = None, **__: Any) -> None:
            """Metrics come from rank 0; this rank shows only how far it is."""
            log({}, step)

        return progress_only

    @property
    def step(self) -> int:
        """Step of the next call without one."""
        return self._metrics.step if self._metrics is not None else self._first_step

    def continue_at(self, step: int) -> None:
        """Give the next call without a step this one."""
        self._first_step = step
        if self._metrics is not None:
            self._metrics.step = step

    def last_values(self) -> dict[str, Any]:
        """Return the last value of every metric."""
        return self._metrics.last() if self._metrics is not None else {}

    def append(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Append one event of this writer."""
        if self._open_late is not None:
            self._open_late()
        if self._writer is not None:
            self._writer.append_json(kind, fields)

    def identity(self) -> Meta | None:
        """Return under whose name this process logs, None when it logs nothing.

        Raises: RunwireError when the run has ended.
        """
        if self._open_late is not None:
            self._open_late()
        if self._is_closed:
            raise self._ended_error()
        return self.meta if self._writer is not None else None

    @functools.cached_property
    def outbox(self) -> Outbox:
        """Where artifacts and checkpoints of this process go."""
        from runwire.outbox.outbox import Outbox

        return Outbox(self)

    def append_from_signal(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Append from a signal handler: never waits for a lock its own thread may hold."""
        if self._writer is None:
            return
        series, _ = KIND_SERIES[kind]
        target = self._writer.series[series]
        if target.lock.acquire(timeout=0.2):
            target.lock.release()
            self._writer.append_json(kind, fields)
            segment = target.segment
            if segment is not None:
                segment.sync()

    def set_phase(self, name: str) -> None:
        """Show the phase in the live segment's header."""
        if self._writer is not None:
            self._writer.set_phase(name)

    def too_late(self) -> None:
        """Tell once that the run has ended, count the rest."""
        self.guard.report("logging after finish", self._ended_error())

    def counts(self) -> dict[str, Any]:
        """Return what a finish event says about this writer's points."""
        if self._writer is None or self._metrics is None:
            return {}
        state = self._writer.series["metric"].position()
        last = self._metrics.step - 1
        return {
            "accepted": state.accepted,
            "dropped": self._writer.dropped,
            "last_step": last if state.call else None,
        }

    def drain(self) -> None:
        """Store what waits in memory and force all of it to the device."""
        if self._writer is not None and self._metrics is not None:
            self._metrics.drain()
            self._writer.sync()

    def wait_stored(self, timeout: float | None) -> FlushReport:
        """Wait until the reader has stored everything, at most `timeout` seconds."""
        deadline = time.monotonic() + (timeout or 0.0)
        while True:
            report = self.report()
            if not report.pending or time.monotonic() >= deadline:
                return report
            time.sleep(_LOOK_INTERVAL_S)

    def report(self) -> FlushReport:
        """Return what is spooled, stored, waiting and dropped."""
        writer = self._writer
        if writer is None:
            return self._closed
        spooled = writer.series["metric"].position().accepted
        cursor = read_cursor(writer.folder)
        passed = min(spooled, max(cursor.accepted, cursor.skip_accepted))
        acked = max(0, passed - writer.given_up - writer.deleted)
        return FlushReport(spooled, acked, spooled - passed, writer.waiting, dict(writer.dropped))

    def close(self) -> Callable[..., None]:
        """Close the writer; return what `run.log` does from now on."""
        self._remember()
        self._closed = self.report()
        if self._writer is not None:
            self._writer.close()
        self._writer, self._metrics = None, None
        self._is_closed = self.settings.mode != "disabled"

        def refuse(*_: Any, **__: Any) -> None:
            self.too_late()

        return refuse if self._is_closed else _accept_unseen

    def _ended_error(self) -> RunwireError:
        return RunwireError(f"run {self.meta.run_id} has ended; start another with runwire.init()")

    def is_foreign(self) -> bool:
        """Tell whether this process only inherited the run through a fork."""
        return os.getpid() != self._owner_pid

    def fork(self, run: Any) -> Callable[..., None]:
        """Let go of the parent's files in a child; the child's own writer opens at first use."""
        parent, self._metrics, self._writer = self._writer, None, None
        if parent is not None:
            parent.abandon()
        return self.log_as_worker(run)

    def log_as_worker(self, run: Any) -> Callable[..., None]:
        """Return a `run.log` that opens a writer of its own when it is first called."""
        policy = self.settings.fork_policy
        if policy == "ignore" or self.settings.mode == "disabled":
            return _accept_unseen

        lock, is_opening = threading.RLock(), False

        def open_now() -> bool:
            """Open the writer once; false for a signal handler that interrupts the opening."""
            nonlocal is_opening
            if policy == "raise":
                raise RunwireError(
                    "this forked child logs to its parent's run, which fork_policy='raise' forbids"
                )
            with lock:
                if is_opening:
                    return False
                if self._open_late is open_now:
                    is_opening, opened = True, _accept_unseen
                    try:
                        with self.guard.catching("opening a spool in a forked child"):
                            self.open_worker()
                            opened = self.bind_log(run)
                    finally:
                        run.log, self._open_late, is_opening = opened, None, False
            return True

        def open_then_log(*args: Any, **kwargs: Any) -> None:
            if open_now():
                run.log(*args, **kwargs)

        self._open_late = open_now
        return open_then_log

    def open_worker(self) -> None:
        """Open a writer of its own for a process that inherited the run (forked or spawned)."""
        self.meta = replace(
            self.meta,
            writer=os.urandom(16).hex(),
            pid=os.getpid(),
            started_at_ns=time.time_ns(),
            worker_of=self.meta.rank,
        )
        self._writer = self._create_writer()

    def _create_writer(self) -> SpoolWriter:
        return SpoolWriter.create(
            self.settings.root,
            self.meta,
            quota_bytes=self.settings.quota_bytes,
            free_ratio_min=self.settings.disk_free_ratio_min,
        )

    @classmethod
    def attached(cls, settings: Settings, meta: Meta, guard: Guard) -> Session:
        """Return a session in a process that does not own the run; it opens at first use."""
        return cls(settings, meta, guard, owner=False)

    def handle(self) -> tuple[Settings, Meta]:
        """Return what another process needs to log into the same run."""
        return self.settings, self.meta

    def _remember(self) -> None:
        last = self.counts().get("last_step")
        with self.guard.catching("remembering the run"):
            if self._writer is not None and self.meta.rank == 0:
                known_runs.remember(
                    self.settings.root,
                    self.meta.project,
                    self.meta.run_id,
                    attempt=self.meta.attempt,
                    last_step=last,
                )


def _accept_unseen(*_: Any, **__: Any) -> None:
    """Log nothing, as asked for by mode="disabled"."""
