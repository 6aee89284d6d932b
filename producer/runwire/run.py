"""Runs as users hold them: a facade over the session, which stamps and spools every event."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from runwire.artifacts.calls import ArtifactCalls
from runwire.checkpoints.calls import CheckpointCalls
from runwire.conversion import (
    ANY,
    CONTENT,
    EXIT_CODE,
    FLAG,
    SECONDS,
    STEP,
    TAGS,
    TEXT,
    word,
)
from runwire.errors import RunwireError
from runwire.guard import Guard, public_call
from runwire.metrics.flush import FlushReport
from runwire.other_trackers import missing_name
from runwire.params.config import Config
from runwire.params.summary import Summary
from runwire.process.exits import Outcome, outcome_of
from runwire.session import Session
from runwire.settings import Settings
from runwire.tags import Tags
from runwire_disk import fork
from runwire_disk.spool.format import Meta

_PLAIN = ("log", "guard")  # attributes that are set by the session and by `__init__`
_STATUS = word(
    "finished",
    "failed",
    "preempted",
    "interrupted",
    # The words of MLflow and of job queues.
    also={
        "success": "finished",
        "succeeded": "finished",
        "completed": "finished",
        "error": "failed",
        "crashed": "failed",
        "killed": "interrupted",
        "canceled": "interrupted",
        "cancelled": "interrupted",
        "aborted": "interrupted",
    },
)
_SUMMARY = word("last", "min", "max", "mean", "best", "none")
_GOAL = word("minimize", "maximize", also={"min": "minimize", "max": "maximize"})


class Run(ArtifactCalls, CheckpointCalls):
    """One run as this process sees it; made by `runwire.init`.

    Threads: safe. Raises: nothing after `init`, unless strict: failures are counted and the first
    of each name is logged.
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
        self._about: dict[str, Any] = dict(about or {})
        self.guard: Guard = session.guard
        self._tags = Tags(tags or {}, self._emit_tags, session.guard)
        self._config: Config = session.config
        self._summary: Summary = session.summary
        session.bind(self)
        if about is not None:
            _owned[_handle_key(session)] = self
            session.emit("run", self._started())

    @classmethod
    def attached(cls, session: Session) -> Self:
        """Return a run that another process owns: it logs as a worker and never ends it."""
        return cls(session)

    def _started(self) -> dict[str, Any]:
        return {
            "event": "started",
            "status": "running",
            "tags": dict(self._tags),
            "world_size": self._session.meta.world_size,
            "environment": self._session.environment,
            **self._about,
        }

    def __setattr__(self, name: str, value: Any) -> None:
        """Record the attributes that a run has; report others, which are recorded nowhere."""
        kind = getattr(type(self), name, None)
        if isinstance(kind, property) and kind.fset is None:
            refusal = f"run.{name} cannot be changed; it is set by init() and the calls of the run"
            self.guard.report(f"run.{name}", RunwireError(refusal))
            return
        is_ours = name.startswith("_") or name in _PLAIN or isinstance(kind, property)
        if not is_ours and not callable(value):
            refusal = (
                f"run.{name} is recorded nowhere: use run.config[{name!r}], run.summary[{name!r}] "
                f"or run.set_tag({name!r}, ...)"
            )
            self.guard.report(f"run.{name}", RunwireError(refusal))
        object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """Name of the run, its id without one; setting it renames the run."""
        return self._about.get("name") or self.id

    @name.setter
    def name(self, value: str) -> None:
        self._change("name", value)

    @property
    def notes(self) -> str | None:
        """Notes about the run."""
        return self._about.get("notes")

    @notes.setter
    def notes(self, value: str) -> None:
        self._change("notes", value)

    @property
    def group(self) -> str | None:
        """Group of the run."""
        return self._about.get("group")

    @group.setter
    def group(self, value: str) -> None:
        self._change("group", value)

    @property
    def tags(self) -> Tags:
        """Tags by name; changes are recorded."""
        return self._tags

    @tags.setter
    def tags(self, value: Mapping[str, Any] | Iterable[str]) -> None:
        self._tags.add(value)

    @property
    def config(self) -> Config:
        """Parameters of the run; assigning a mapping sets all of its keys."""
        return self._config

    @config.setter
    def config(self, value: Any) -> None:
        self._config.update(value)

    @property
    def summary(self) -> Summary:
        """Final values of the run; assigning a mapping sets all of its keys."""
        return self._summary

    @summary.setter
    def summary(self, value: Any) -> None:
        self._summary.update(value)

    @property
    def is_active(self) -> bool:
        """Whether the run takes records: from `init` to `finish`."""
        return self._session.is_live

    def _change(self, name: str, value: Any) -> None:
        with self.guard.catching(f"run.{name}"):
            self._about[name] = None if value is None else str(value)
            self._session.emit("run", {"event": "updated", name: self._about[name]})

    def _emit_tags(self, tags: dict[str, str]) -> None:
        self._session.emit("run", {"event": "updated", "tags": tags})

    if not TYPE_CHECKING:  # for the checker every attribute would exist

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(missing_name("the run", name))

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

    @public_call(key=TEXT, value=ANY, step=STEP)
    def log_metric(self, key: str, value: Any, step: int | None = None) -> None:
        """Log one scalar."""
        self.log({key: value}, step)

    @public_call(data=ANY, step=STEP)
    def log_metrics(self, data: Mapping[str, Any], step: int | None = None) -> None:
        """Log scalars, as `log`."""
        self.log(data, step)

    @public_call(key=TEXT, value=ANY)
    def log_param(self, key: str, value: Any) -> None:
        """Set one parameter; the same as `config[key] = value`."""
        self.config[key] = value

    @public_call(params=ANY)
    def log_params(self, params: Any) -> None:
        """Set several parameters from a mapping, dataclass, namespace or OmegaConf object."""
        self.config.update(params)

    @public_call(key=TEXT, value=CONTENT)
    def set_tag(self, key: str, value: Any | None) -> None:
        """Set one tag; the last value wins."""
        self._tags.add({key: value})

    @public_call(tags=TAGS)
    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set several tags; the last values win."""
        self._tags.add(tags)

    @public_call(names=TEXT)
    def add_tags(self, *names: str) -> None:
        """Add tags that have no value."""
        self._tags.add(names)

    @public_call(name=TEXT, step_metric=TEXT, summary=_SUMMARY, goal=_GOAL, hidden=FLAG)
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
        fields = {"step_metric": step_metric, "summary": summary, "goal": goal, "hidden": hidden}
        if self._metric_defs.get(name) == fields:
            return  # repeated at each step, as some loops do
        self._metric_defs[name] = fields
        self._session.emit(
            "run", {"event": "updated", "metric_defs": json.dumps(self._metric_defs)}
        )

    @public_call(name=TEXT)
    def phase(self, name: str) -> None:
        """Set the phase of the trainer, for example "eval"; heartbeats carry it."""
        self._session.set_phase(name)

    @public_call(exc=ANY)
    def capture_exception(self, exc: BaseException | None = None) -> None:
        """Record an exception as a log entry without ending the run."""
        if exc is not None:
            error = outcome_of(exc)
            text = error.traceback or error.reason or ""
            self._session.emit_text("exception", text, None, level="error")

    @public_call(reason=TEXT)
    def mark_preempting(self, reason: str | None = None) -> None:
        """Record that this run is about to be pre-empted: its end then reads "preempted"."""
        self._session.mark_preempting(reason or "marked by the trainer")

    @public_call(default=FlushReport, timeout=SECONDS)
    def flush(self, timeout: float | None = 5) -> FlushReport:
        """Force all records to the device and wait, up to `timeout` seconds, until they are stored.

        Blocks: one fdatasync, and at most `timeout` seconds.
        """
        self._session.drain()
        return self._session.wait_stored(timeout)

    @public_call(default=FlushReport, status=_STATUS, exit_code=EXIT_CODE, timeout=SECONDS)
    def finish(
        self,
        status: str | None = None,
        exit_code: int | None = None,
        timeout: float | None = None,
    ) -> FlushReport:
        """End the run; later calls log nothing. Safe to call twice.

        Blocks: one fdatasync, and at most `timeout` seconds (`finish_timeout_s` when None) until
        it is stored.
        """
        outcome = self._session.noted or Outcome(status="finished", exit_code=exit_code)
        if status is not None or exit_code:
            word = status or "failed"
            reason = None if status else f"finish(exit_code={exit_code})"
            outcome = Outcome(status=word, reason=reason, exit_code=exit_code)
        return self._session.end(outcome, timeout)

    def __enter__(self) -> Self:
        self._session.is_block = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None
    ) -> None:
        self._session.finish_at_exit(outcome_of(exc))

    def __reduce__(self) -> tuple[Any, ...]:
        return attach, (self._session.settings, self._session.meta)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        """Return the run itself: a copy of a callback or estimator logs through one writer."""
        return self

    def __repr__(self) -> str:
        return f"<runwire.Run {self.project}/{self.id} rank {self.rank}>"


def attach(settings: Settings, meta: Meta) -> Run:
    """Return this process's one object of a run: the run itself, or a handle on another process's.

    Pickled runs become one in workers. A handle stays open until the process ends: a pool
    unpickles one for every task.
    """
    session = Session.attached(settings, meta, Guard(strict=settings.strict))
    key = _handle_key(session)
    known = _owned.get(key) or _handles.get(key)
    if known is not None:
        return known
    run = _handles.setdefault(key, Run.attached(session))
    fork.register(run._session)  # noqa: SLF001 - our own
    return run


# Runs of this process, and handles on those of others, by what all their writers share.
_HandleKey = tuple[Path, str, str, str, int]
_owned: weakref.WeakValueDictionary[_HandleKey, Run] = weakref.WeakValueDictionary()
_handles: dict[_HandleKey, Run] = {}


def _handle_key(session: Session) -> _HandleKey:
    meta = session.meta
    return session.settings.root, meta.project, meta.run_id, meta.attempt, meta.rank
