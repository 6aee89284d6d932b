"""What the trainer holds: stamps events and hands them to the spool without blocking or raising."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from runwire.artifacts.calls import ArtifactCalls
from runwire.checkpoints.calls import CheckpointCalls
from runwire.guard import Guard, guarded
from runwire.params.config import Config
from runwire.params.redaction import redact_text
from runwire.params.summary import Summary
from runwire.process import exits, notebook
from runwire.process.exits import Outcome
from runwire.report import FlushReport
from runwire.session import Session

TEXT_CHARS_MAX = 65_536
_STATUSES = ("finished", "failed", "preempted", "interrupted")
_SUMMARIES = ("last", "min", "max", "mean", "best", "none")


class Run(ArtifactCalls, CheckpointCalls):
    """One run as this process sees it; made by `runwire.init`.

    Threads: safe. Raises: nothing after `init`, unless strict: failures are counted and told once.
    """

    def __init__(
        self, session: Session, *, tags: Mapping[str, str], about: Mapping[str, Any]
    ) -> None:
        self._bind(session, tags)
        self.name: str = about.get("name") or session.meta.run_id
        self._emit(
            "run",
            {
                "event": "started",
                "status": "running",
                "tags": self.tags,
                "world_size": session.meta.world_size,
                "environment": session.environment,
                **about,
                "name": self.name,
            },
        )

    def _bind(self, session: Session, tags: Mapping[str, str]) -> None:
        self._session = session
        self._ended: Outcome | None = None
        self._noted: Outcome | None = None
        self._preempted: str | None = None
        self._metric_defs: dict[str, dict[str, Any]] = {}
        self.guard: Guard = session.guard
        self.tags: dict[str, str] = dict(tags)
        self.config = Config(self._emit_param, self.guard)
        self.summary = Summary(self._emit_summary, session.last_values, self.guard)
        # Bound once: a call through `run.log` costs no second Python frame.
        self.log: Callable[..., None] = session.bind_log(self)

    @classmethod
    def attached(cls, session: Session) -> Self:
        """Return a run that another process owns: it logs as a worker and never ends it."""
        run = cls.__new__(cls)
        run._bind(session, {})  # noqa: SLF001 - our own
        run.name = session.meta.run_id
        run.log = session.log_as_worker(run)
        return run

    @property
    def id(self) -> str:
        """Id of the run, the same on all ranks and attempts."""
        return self._session.meta.run_id

    @property
    def run_id(self) -> str:
        """The same as `id`, under the name of the setting."""
        return self._session.meta.run_id

    @property
    def project(self) -> str:
        """Project of the run."""
        return self._session.meta.project

    @property
    def rank(self) -> int:
        """Place of this process in its job."""
        return self._session.meta.rank

    @property
    def step(self) -> int:
        """Step that the next `log` without one gets."""
        return self._session.step

    @guarded("log_metric")
    def log_metric(self, key: str, value: Any, step: int | None = None) -> None:
        """Log one scalar."""
        self.log({key: value}, step)

    @guarded("log_metrics")
    def log_metrics(self, data: Mapping[str, Any], step: int | None = None) -> None:
        """Log scalars, as `log`."""
        self.log(data, step)

    @guarded("log_param")
    def log_param(self, key: str, value: Any) -> None:
        """Set one parameter; the same as `config[key] = value`."""
        self.config[key] = value

    @guarded("log_params")
    def log_params(self, params: Any) -> None:
        """Set several parameters from a mapping, dataclass, namespace or OmegaConf object."""
        self.config.update(params)

    @guarded("set_tag")
    def set_tag(self, key: str, value: Any) -> None:
        """Set one tag; the last value wins."""
        self.set_tags({key: value})

    @guarded("set_tags")
    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set several tags; the last values win."""
        self.tags.update({str(k): str(v)[:TEXT_CHARS_MAX] for k, v in tags.items()})
        self._emit("run", {"event": "updated", "tags": self.tags})

    @guarded("add_tags")
    def add_tags(self, *names: str) -> None:
        """Add tags that have no value."""
        self.set_tags(dict.fromkeys(names, ""))

    @guarded("define_metric")
    def define_metric(
        self,
        name: str,
        *,
        step_metric: str | None = None,
        summary: str = "last",
        goal: str | None = None,
        hidden: bool = False,
    ) -> None:
        """Say how a metric is summarised and drawn; views and dashboards follow it."""
        if summary not in _SUMMARIES or goal not in (None, "minimize", "maximize"):
            raise ValueError(
                f"define_metric({name!r}): summary is one of {', '.join(_SUMMARIES)}; goal is "
                "'minimize', 'maximize' or None"
            )
        fields = {"step_metric": step_metric, "summary": summary, "goal": goal, "hidden": hidden}
        self._metric_defs[name] = fields
        self._emit("run", {"event": "updated", "metric_defs": json.dumps(self._metric_defs)})

    @guarded("phase")
    def phase(self, name: str) -> None:
        """Say what the trainer does now (for example "eval"); heartbeats carry it."""
        self._session.set_phase(name)

    @guarded("capture_exception")
    def capture_exception(self, exc: BaseException | None = None) -> None:
        """Record an exception as a log entry without ending the run."""
        found = exits.outcome_of(exc) if exc is not None else None
        if found is not None:
            self._emit_text("exception", found.traceback or found.reason or "", None, level="error")

    @guarded("mark_preempting")
    def mark_preempting(self, reason: str | None = None) -> None:
        """Record that this run is about to be pre-empted: its end then reads "preempted"."""
        self._preempted = reason or "marked by the trainer"
        self._emit("run", {"event": "updated", "status_reason": f"pre-empting: {self._preempted}"})

    @guarded("flush", default=FlushReport)
    def flush(self, timeout: float | None = 5) -> FlushReport:
        """Force what was logged to the device and, up to `timeout` seconds, wait until stored.

        Blocks: one fdatasync, and at most `timeout` while a worker is reading.
        """
        self._session.drain()
        return self._session.wait_stored(timeout)

    def finish(
        self,
        status: str | None = None,
        exit_code: int | None = None,
        timeout: float | None = None,
    ) -> FlushReport:
        """End the run; later calls log nothing. Safe to call twice.

        Blocks: one fdatasync, and at most `timeout` seconds (0 when None) until it is stored.
        """
        if status is not None and status not in _STATUSES:
            problem = ValueError(f"finish(status={status!r}): use one of {', '.join(_STATUSES)}")
            self.guard.report("finish", problem)
            status = None
        outcome = self._noted or Outcome(status="finished", exit_code=exit_code)
        if status is not None or exit_code:
            word = status or "failed"
            reason = None if status else f"finish(exit_code={exit_code})"
            outcome = Outcome(status=word, reason=reason, exit_code=exit_code)
        return self._end(outcome, timeout or 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None
    ) -> None:
        self._end(self._preempted_or(exits.outcome_of(exc)), 0.0)

    def __reduce__(self) -> tuple[Any, ...]:
        from runwire.start import attach

        return attach, self._session.handle()

    def _end(self, outcome: Outcome, timeout: float) -> FlushReport:
        if self._ended is not None or self._session.is_foreign():
            return self._session.report()
        if outcome.traceback:
            self._emit_text("exception", outcome.traceback, None, level="error")
        self._finish_checkpoints()
        self._ended = outcome
        report = FlushReport()
        with self.guard.catching("finish"):
            self._session.drain()
            counts = self._session.counts()
            self._emit("run", {"event": "finished", **_described(outcome), **counts})
            report = self._session.wait_stored(timeout)
        with self.guard.catching("finish"):
            exits.uninstall(self)
            notebook.uninstall(self)
            self.log = self._session.close()
        return report

    def _emit(self, kind: str, fields: Mapping[str, Any]) -> None:
        if self._ended is None or fields.get("event") == "finished":
            self._session.append(kind, fields)
        else:
            self._session.too_late()

    def _emit_param(self, key: str, text: str) -> None:
        self._emit("param", {"key": key, "value": text})

    def _emit_summary(self, text: str) -> None:
        self._emit("run", {"event": "updated", "summary": text})

    def _emit_text(self, name: str, text: str, step: int | None, *, level: str = "info") -> None:
        kept = text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + " [cut]"
        fields = {"stream": "text", "name": name, "level": level, "step": step}
        self._emit("log", {**fields, "text": redact_text(kept) if level == "error" else kept})

    def _note_outcome(self, outcome: Outcome | None) -> None:
        self._noted = outcome

    def _note_preemption(self, signum: int, *, final: bool) -> None:
        self._preempted = f"signal {signum}"
        outcome = Outcome(status="preempted", reason=f"signal {signum}", exit_code=128 + signum)
        if final and self._ended is None:
            self._ended = outcome
            counts = self._session.counts()
            fields = {"event": "finished", **_described(outcome), **counts}
            self._session.append_from_signal("run", fields)
        elif self._ended is None:
            self._session.set_phase("preempting")  # if it is killed meanwhile, the agent sees why
            fields = {"event": "updated", "status_reason": f"pre-empting: signal {signum}"}
            self._session.append_from_signal("run", fields)

    def _finish_at_exit(self, outcome: Outcome) -> None:
        self._end(self._preempted_or(outcome), 0.0)

    def _preempted_or(self, outcome: Outcome) -> Outcome:
        if self._preempted is None or outcome.status == "interrupted":
            return outcome
        return Outcome(status="preempted", reason=self._preempted, exit_code=outcome.exit_code)

    def _after_fork_in_child(self) -> None:
        self.config.reset_after_fork()
        self.summary.reset_after_fork()
        self.guard.reset_after_fork()
        self.log = self._session.fork(self)

    def __repr__(self) -> str:
        return f"<runwire.Run {self.project}/{self.id} rank {self.rank}>"


def tags_of(tags: Mapping[str, Any] | Iterable[str]) -> dict[str, str]:
    """Return tags as a mapping; a sequence of names gets empty values."""
    if isinstance(tags, Mapping):
        return {str(key): str(value) for key, value in tags.items()}
    if isinstance(tags, str):
        return {tags: ""}
    return {str(name): "" for name in tags}


def _described(outcome: Outcome) -> dict[str, Any]:
    return {
        "status": outcome.status,
        "status_reason": outcome.reason,
        "exit_code": outcome.exit_code,
    }
