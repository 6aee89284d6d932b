"""Sessions: a run's writer, its record of start and end, and its reaction to forks and signals."""

from __future__ import annotations

import functools
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from runwire.announcements import say_finished
from runwire.errors import RunwireError
from runwire.guard import Guard
from runwire.metrics.flush import FlushReport, report_of, wait_stored
from runwire.metrics.log import MetricLog
from runwire.params.config import Config
from runwire.params.summary import Summary
from runwire.process import exits, notebook
from runwire.process.exits import Outcome
from runwire.process.late_writer import LateWriter
from runwire.recorded_ranks import RecordedRanks
from runwire.safe_text import redact_text
from runwire.settings import Settings
from runwire_disk.spool.format import KIND_SERIES, Meta
from runwire_disk.spool.run_notes import write_note
from runwire_disk.spool.writer import SpoolWriter

if TYPE_CHECKING:
    from runwire.outbox.outbox import Outbox

TEXT_CHARS_MAX = 65_536
SIGNAL_WAIT_S = 0.2  # of a signal handler, for a thread that is just appending


class LogHolder(Protocol):
    """The object through which users log. Its `log` is replaced when the session changes."""

    log: Callable[..., None]


class SessionPart(Protocol):
    """An object of which a session has one, such as its checkpoint saver."""

    def finish(self, wait_s: float) -> None:
        """Complete the work under way; the run is about to end, and may wait so many seconds."""


_Part = TypeVar("_Part", bound=SessionPart)


class Session:
    """One process's writer for one run. Without one (mode "disabled") calls are ignored.

    Threads: safe.
    """

    def __init__(
        self,
        settings: Settings,
        meta: Meta,
        guard: Guard,
        *,
        environment: Mapping[str, str] | None = None,
        first_step: int = 0,
        owner: bool = True,
    ) -> None:
        self.settings, self.meta, self.guard = settings, meta, guard
        self.environment = dict(environment or {})
        self.config = Config(self._emit_param, guard)
        self.summary = Summary(self._emit_summary, self.last_values, guard)
        self.log: Callable[..., None] = _ignore
        self.noted: Outcome | None = None
        self.is_block = False  # a `with` statement ends the run; another `init` does not
        self._holder: Callable[[], LogHolder | None] = lambda: None
        self._first_step = first_step
        self._has_resumed = False
        self._recorded = RecordedRanks(settings.ranks)
        self._preempted: str | None = None
        self._ended: Outcome | None = None
        self._is_closed = self._is_over = False
        self._closed = FlushReport()
        self._last_values: dict[str, Any] = {}  # of an ended run
        self._parts: dict[Any, SessionPart] = {}
        # Reentrant: a signal handler may use the part that its own thread is just making.
        self._making = threading.RLock()
        self._writer: SpoolWriter | None = None
        self._metrics: MetricLog | None = None
        # Only in a process that inherited the run: it opens its own writer at the first record.
        self._late: LateWriter | None = None
        self._owner_pid = meta.pid if owner else -1
        if owner and settings.mode != "disabled":
            self._writer = self._create_writer()

    @classmethod
    def attached(cls, settings: Settings, meta: Meta, guard: Guard) -> Self:
        """Return a session of a process that does not own the run; it opens at first use."""
        return cls(settings, meta, guard, owner=False)

    def bind(self, holder: LogHolder) -> None:
        """Keep `holder.log` the function that logs now. The holder stays collectable."""
        self._holder = weakref.ref(holder)
        self._replace_log(self._log_late() if self._owner_pid < 0 else self._log_now())

    def _replace_log(self, log: Callable[..., None]) -> None:
        self.log = log
        holder = self._holder()
        if holder is not None:
            holder.log = log

    def _log_now(self) -> Callable[..., None]:
        """Return the function that logs through the writer that is open now."""
        if self._writer is None:
            return _ignore
        self._metrics = MetricLog(
            self._writer,
            report=self.guard.report,
            on_text=self.emit_text,
            first_step=self._first_step,
        )
        log = self._metrics.log
        if self._recorded.includes(self.meta.rank):
            return log
        return self._recorded.progress_only(log, self._writer.count_dropped, self.meta.rank)

    def _log_late(self) -> Callable[..., None]:
        """Return a function that opens a writer of this process when it is first called."""
        policy = self.settings.fork_policy
        if policy == "ignore" or self.settings.mode == "disabled":
            return _ignore
        if not self.is_live:  # a child of a process whose run has ended
            return self._refuse
        self._late = LateWriter(self, is_forbidden=policy == "raise")
        return self._late.log

    @property
    def is_live(self) -> bool:
        """Whether the run takes records: from its start to its end."""
        return self._ended is None

    @property
    def step(self) -> int:
        """Step of the next call without one."""
        return self._metrics.step if self._metrics is not None else self._first_step

    def resume_from(self, step: int) -> None:
        """Continue after `step`; the first time, mark later points of earlier attempts abandoned.

        Going back again in the same attempt abandons nothing: this attempt has replaced those.
        """
        self._first_step = step + 1
        if self._metrics is not None:
            self._metrics.step = step + 1
        if not self._has_resumed:
            self._has_resumed = True
            self.emit("run", {"event": "updated", "resumed_from_step": step})

    def last_values(self) -> dict[str, Any]:
        """Return the last value of every metric."""
        return self._metrics.last() if self._metrics is not None else self._last_values

    def emit(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Append one event of the run; after its end, report the call instead."""
        if self._ended is None or fields.get("event") == "finished":
            self.append(kind, fields)
        else:
            self._refuse()

    def emit_text(self, name: str, text: str, step: int | None, *, level: str = "info") -> None:
        """Append a text, cut to its limit; secrets are masked in errors."""
        kept = text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + " [cut]"
        fields = {"stream": "text", "name": name, "level": level, "step": step}
        self.emit("log", {**fields, "text": redact_text(kept) if level == "error" else kept})

    def _emit_param(self, key: str, text: str) -> None:
        self.emit("param", {"key": key, "value": text})

    def _emit_summary(self, text: str) -> None:
        self.emit("run", {"event": "updated", "summary": text})

    def append(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Append one event of this writer."""
        if self._late is not None:
            self._late.open()
        if self._writer is not None:
            self._writer.append_json(kind, fields, is_last=fields.get("event") == "finished")

    def identity(self) -> Meta | None:
        """Return the name to log under, None without one. Raises: RunwireError after the end."""
        if self._late is not None:
            self._late.open()
        if self._is_closed:
            raise self._ended_error()
        return self.meta if self._writer is not None else None

    @functools.cached_property
    def outbox(self) -> Outbox:
        """The outbox that artifacts and checkpoints of this process go to."""
        from runwire.outbox.outbox import Outbox

        return Outbox(self)

    def part(self, kind: Callable[[Session], _Part]) -> _Part:
        """Return this session's one object of a kind in this process, made at first use."""
        with self._making:
            if kind not in self._parts:
                self._parts[kind] = kind(self)
            made: Any = self._parts[kind]
            return made  # type: ignore[no-any-return]

    def set_phase(self, name: str) -> None:
        """Show the phase in the live segment's header."""
        if self._writer is not None:
            self._writer.set_phase(name)

    def counts(self) -> dict[str, Any]:
        """Return the fields of a finish event: points of this writer, and calls that failed.

        In `dropped`, keys that begin with `call:` count calls, all others points.
        """
        if self._writer is None or self._metrics is None:
            return {}
        metrics = self._writer.series["metric"].position()
        return {
            "accepted": metrics.accepted,
            "dropped": {**self._writer.dropped, **self.guard.swallowed()},
            "last_step": self._metrics.step - 1 if metrics.call else None,
        }

    def drain(self) -> None:
        """Store the values that wait in memory and force everything to the device."""
        if self._writer is not None and self._metrics is not None:
            self._metrics.drain()
            self._writer.sync()

    def wait_stored(self, timeout: float | None) -> FlushReport:
        """Wait until the reader has stored everything, at most `timeout` seconds."""
        return self._closed if self._writer is None else wait_stored(self._writer, timeout)

    def report(self) -> FlushReport:
        """Return the points that are spooled, stored, waiting and dropped."""
        return self._closed if self._writer is None else report_of(self._writer)

    def end(self, outcome: Outcome, timeout: float | None = None) -> FlushReport:
        """Record the end of the run and close; does nothing in a process that does not own it.

        Blocks: one fdatasync, and at most `timeout` seconds (`finish_timeout_s` when None) until
        everything is stored; before that, until the parts are finished.
        """
        if self._is_over or self.is_foreign():
            return self.report()
        wait_s = self.settings.finish_timeout_s if timeout is None else timeout
        with self.guard.catching("finish"):
            if outcome.traceback:
                self.emit_text("exception", outcome.traceback, None, level="error")
        for part in tuple(self._parts.values()):
            with self.guard.catching("finish"):
                part.finish(wait_s)
        report = FlushReport()
        with self.guard.catching("finish"):
            self.drain()  # before the end: texts that wait are logged too
        self._ended = outcome
        with self.guard.catching("finish"):
            if self._writer is not None:
                self._writer.seal("metric")  # other threads may log: the counts are final
            self.emit("run", {"event": "finished", **outcome.as_fields(), **self.counts()})
            report = self.wait_stored(wait_s)
        with self.guard.catching("finish"):
            exits.uninstall(self)
            notebook.uninstall(self)
            self._close()
        self._is_over = True  # an end that Ctrl-C interrupts is completed by the next one
        say_finished(self.settings, self.meta, outcome, report)
        return report

    def mark_preempting(self, reason: str) -> None:
        """Record that the run is about to be pre-empted: its end then reads "preempted"."""
        self._preempted = reason
        self.emit("run", {"event": "updated", "status_reason": f"pre-empting: {reason}"})

    def note_outcome(self, outcome: Outcome | None) -> None:
        """Remember how the process is about to end; None takes it back (notebook cells)."""
        self.noted = outcome

    def note_preemption(self, signum: int, *, final: bool) -> None:
        """Record a pre-emption signal; `final`: the process dies as soon as this returns."""
        self._preempted = f"signal {signum}"
        if self._ended is not None:
            return
        if final:
            outcome = Outcome(status="preempted", reason=f"signal {signum}", exit_code=128 + signum)
            self._ended = outcome
            fields = {"event": "finished", **outcome.as_fields(), **self.counts()}
        else:
            self.set_phase("preempting")  # if it is killed meanwhile, the agent sees why
            fields = {"event": "updated", "status_reason": f"pre-empting: signal {signum}"}
        self._append_from_signal("run", fields, is_last=final)

    def finish_at_exit(self, outcome: Outcome) -> None:
        """End with `outcome`, or as pre-empted where that was announced."""
        if self._preempted is not None and outcome.status != "interrupted":
            reason, code = self._preempted, outcome.exit_code
            outcome = Outcome(status="preempted", reason=reason, exit_code=code)
        self.end(outcome)

    def _append_from_signal(self, kind: str, fields: Mapping[str, Any], *, is_last: bool) -> None:
        """Append from a signal handler: never waits for a lock its own thread may hold."""
        if self._writer is not None:
            self._writer.append_json(kind, fields, wait_s=SIGNAL_WAIT_S, is_last=is_last)
            self._writer.sync((KIND_SERIES[kind][0],), wait_s=SIGNAL_WAIT_S)

    def _close(self) -> None:
        self._remember()
        self._closed, self._last_values = self.report(), self.last_values()
        if self._writer is not None:
            self._writer.close()
        self._writer, self._metrics = None, None
        self._is_closed = self.settings.mode != "disabled"
        self._replace_log(self._refuse if self._is_closed else _ignore)

    def _refuse(self, *_: Any, **__: Any) -> None:
        """Report once that the run has ended, count the rest."""
        self.guard.report("logging after finish", self._ended_error())

    def _ended_error(self) -> RunwireError:
        return RunwireError(f"run {self.meta.run_id} has ended; start another with runwire.init()")

    def _remember(self) -> None:
        last = self.counts().get("last_step")
        with self.guard.catching("remembering the run"):
            if self._writer is not None and self.meta.rank == 0:
                write_note(
                    self.settings.root,
                    self.meta.project,
                    self.meta.run_id,
                    attempt=self.meta.attempt,
                    last_step=last,
                )

    def is_foreign(self) -> bool:
        """Return whether this process only inherited the run through a fork or by pickling."""
        return os.getpid() != self._owner_pid

    def after_fork_in_child(self) -> None:
        """Drop the parent's files and locks; the child's own writer opens at first use."""
        for state in (self.config, self.summary, self.guard):
            state.reset_after_fork()
        # Parts may have threads that the child does not have, and locks that nobody will free.
        self._parts, self._making = {}, threading.RLock()
        parent, kept, self._writer, self._metrics = self._writer, self._metrics, None, None
        if parent is not None:
            parent.abandon()
        self._replace_log(self._log_late())
        if kept is not None:
            kept.hand_over(self.log)

    def open_as_worker(self, late: LateWriter) -> None:
        """Open a writer of this process, which inherited the run; `late` is done with that."""
        log: Callable[..., None] = _ignore
        try:
            with self.guard.catching("opening a spool in a forked child"):
                self.meta = replace(
                    self.meta,
                    writer=os.urandom(16).hex(),
                    pid=os.getpid(),
                    started_at_ns=time.time_ns(),
                    worker_of=self.meta.rank,
                )
                self._writer = self._create_writer()
                log = self._log_now()
        finally:
            self._replace_log(log)
            if self._late is late:
                self._late = None

    def is_waiting_for(self, late: LateWriter) -> bool:
        """Return whether the writer of this process has still to be opened by `late`."""
        return self._late is late

    def _create_writer(self) -> SpoolWriter:
        return SpoolWriter.create(
            self.settings.root,
            self.meta,
            quota_bytes=self.settings.quota_bytes,
            free_ratio_min=self.settings.disk_free_ratio_min,
        )


class SessionCalls:
    """A part of `Run`: calls that act on its session."""

    guard: Guard
    _session: Session


def _ignore(*_: Any, **__: Any) -> None:
    """Log nothing: mode "disabled", or a forked child that must not log."""
