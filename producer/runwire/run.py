"""Runs as users hold them: a facade over the session, which stamps and spools every event."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from runwire.artifacts.calls import ArtifactCalls
from runwire.checkpoints.calls import CheckpointCalls
from runwire.guard import Guard, guarded
from runwire.metrics.flush import FlushReport
from runwire.params.config import Config
from runwire.params.summary import Summary
from runwire.process.exits import Outcome, outcome_of
from runwire.session import TEXT_CHARS_MAX, Session
from runwire.settings import Settings
from runwire_disk import fork
from runwire_disk.spool.format import Meta

_STATUSES = ("finished", "failed", "preempted", "interrupted")
_SUMMARIES = ("last", "min", "max", "mean", "best", "none")


class Run(ArtifactCalls, CheckpointCalls):
    """One run as this process sees it; made by `runwire.init`.

    Threads: safe. Raises: nothing after `init`, unless strict: failures are counted and the first
    of each kind is logged.
    """

    # Replaced by the session: `run.log` is the hot path itself, without a second Python frame.
    log: Callable[..., None]

    def __init__(
        self,
        session: Session,
        *,
        tags: Mapping[str, str] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Bind a session; with `about`, this process owns the run and records its start."""
        self._session = session
        self._metric_defs: dict[str, dict[str, Any]] = {}
        self.name: str = (about or {}).get("name") or session.meta.run_id
        self.guard: Guard = session.guard
        self.tags: dict[str, str] = dict(tags or {})
        self.config: Config = session.config
        self.summary: Summary = session.summary
        session.bind(self)
        if about is not None:
            session.emit("run", self._started(about))

    @classmethod
    def attached(cls, session: Session) -> Self:
        """Return a run that another process owns: it logs as a worker and never ends it."""
        return cls(session)

    def _started(self, about: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "event": "started",
            "status": "running",
            "tags": self.tags,
            "world_size": self._session.meta.world_size,
            "environment": self._session.environment,
            **about,
            "name": self.name,
        }

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
        """Rank of this process in its job."""
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
        self._session.emit("run", {"event": "updated", "tags": self.tags})

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
        """Define how views and dashboards summarise and draw a metric."""
        if summary not in _SUMMARIES or goal not in (None, "minimize", "maximize"):
            raise ValueError(
                f"define_metric({name!r}): summary is one of {', '.join(_SUMMARIES)}; goal is "
                "'minimize', 'maximize' or None"
            )
        fields = {"step_metric": step_metric, "summary": summary, "goal": goal, "hidden": hidden}
        self._metric_defs[name] = fields
        self._session.emit(
            "run", {"event": "updated", "metric_defs": json.dumps(self._metric_defs)}
        )

    @guarded("phase")
    def phase(self, name: str) -> None:
        """Set the phase of the trainer, for example "eval"; heartbeats carry it."""
        self._session.set_phase(name)

    @guarded("capture_exception")
    def capture_exception(self, exc: BaseException | None = None) -> None:
        """Record an exception as a log entry without ending the run."""
        if exc is not None:
            error = outcome_of(exc)
            text = error.traceback or error.reason or ""
            self._session.emit_text("exception", text, None, level="error")

    @guarded("mark_preempting")
    def mark_preempting(self, reason: str | None = None) -> None:
        """Record that this run is about to be pre-empted: its end then reads "preempted"."""
        self._session.mark_preempting(reason or "marked by the trainer")

    @guarded("flush", default=FlushReport)
    def flush(self, timeout: float | None = 5) -> FlushReport:
        """Force all records to the device and wait, up to `timeout` seconds, until they are stored.

        Blocks: one fdatasync, and at most `timeout` seconds.
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
        outcome = self._session.noted or Outcome(status="finished", exit_code=exit_code)
        if status is not None or exit_code:
            word = status or "failed"
            reason = None if status else f"finish(exit_code={exit_code})"
            outcome = Outcome(status=word, reason=reason, exit_code=exit_code)
        return self._session.end(outcome, timeout or 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None
    ) -> None:
        self._session.finish_at_exit(outcome_of(exc))

    def __reduce__(self) -> tuple[Any, ...]:
        return attach, (self._session.settings, self._session.meta)

    def __repr__(self) -> str:
        return f"<runwire.Run {self.project}/{self.id} rank {self.rank}>"


def attach(settings: Settings, meta: Meta) -> Run:
    """Return a handle on a run of another process; pickled runs become one in spawned workers."""
    session = Session.attached(settings, meta, Guard(strict=settings.strict))
    run = Run.attached(session)
    fork.register(session)
    return run
