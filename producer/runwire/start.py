"""Start of a run: settings and identity resolved, spool opened, agent started."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from os import PathLike, getpid, urandom
from typing import Any

from runwire.agent_launch import ensure_agent
from runwire.errors import RunwireError
from runwire.guard import Guard
from runwire.job import known_runs
from runwire.job.environment import environment_facts
from runwire.job.identity import Identity, identify
from runwire.process import exits, notebook
from runwire.run import Run
from runwire.session import Session
from runwire.settings import Settings
from runwire.version import __version__
from runwire_disk import fork
from runwire_disk.host import boot_id, hostname, pid_namespace
from runwire_disk.spool.format import KAFKA, LOCAL, Meta

_current: Run | None = None
_started = 0


def init(  # noqa: PLR0913 - the surface people know from wandb
    project: str | None = None,
    *,
    name: str | None = None,
    run_id: str | None = None,
    config: Any = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: Mapping[str, Any] | Iterable[str] = (),
    notes: str | None = None,
    parent: str | Run | None = None,
    resume: str = "auto",
    mode: str | None = None,
    dir: str | PathLike[str] | None = None,  # noqa: A002 - the name people know from wandb
    all_ranks: bool = False,
    settings: Settings | None = None,
) -> Run:
    """Start a run and make it the current one.

    Ranks of one job share one run without talking to each other; metrics come from rank 0 unless
    `all_ranks`. `resume` is "auto", "allow", "must" or "never" for a run id that exists already.

    Raises: ConfigError for unusable arguments or settings, SpoolError when the data root cannot
    be written. Nothing raises afterwards unless strict.
    """
    global _current, _started
    given = settings.changed() if settings is not None else {}
    arguments = {"project": project, "run_id": run_id, "mode": mode, "dir": dir}
    # Arguments that are left out do not override `settings`.
    given |= {name: value for name, value in arguments.items() if value is not None}
    resolved = Settings.resolve(given)
    identity = identify(resolved.project, resolved.run_id, nth=_started)
    first_step = 0
    if resolved.mode != "disabled":
        first_step = _resume(resolved, identity, resume)
    session = Session(
        resolved,
        _meta(resolved, identity),
        Guard(strict=resolved.strict),
        environment=environment_facts(git=resolved.capture_git),
        first_step=first_step,
        values_wanted=all_ranks or identity.ranks.rank == 0,
    )
    about = {"name": name, "group": group, "job_type": job_type, "notes": notes}
    about["parent_run_id"] = parent.id if isinstance(parent, Run) else parent
    run = Run(session, tags=_named_tags(tags), about=about)
    if config is not None:
        run.config.update(config)
    fork.register(session)
    exits.install(session, preempt_signals=resolved.preempt_signals)
    notebook.install(session)
    if resolved.mode == "online":
        ensure_agent(resolved.root, resolved)
    _current = run
    _started += 1
    return run


def start_run(run_name: str | None = None, *, nested: bool = False, **arguments: Any) -> Run:
    """Start a run under MLflow's name for it; `nested` makes the current run its parent."""
    if nested and _current is not None:
        arguments.setdefault("parent", _current)
    return init(name=run_name, **arguments)


def active_run() -> Run | None:
    """Return the current run of this process, None before the first `init`."""
    return _current


def current() -> Run:
    """Return the current run. Raises: RunwireError before the first `init`."""
    if _current is None:
        raise RunwireError("there is no run yet: call runwire.init(project=...) first")
    return _current


def _resume(settings: Settings, identity: Identity, resume: str) -> int:
    root, project, run_id = settings.root, identity.project, identity.run_id
    attempt = identity.attempt
    step = known_runs.first_step(root, project, run_id, attempt=attempt, resume=resume)
    if identity.ranks.rank == 0:
        try:
            known_runs.remember(root, project, run_id, attempt=attempt, last_step=None)
        except OSError:
            return step  # opening the spool fails next, with a better error
    return step


def _meta(settings: Settings, identity: Identity) -> Meta:
    kafka = settings.kafka if settings.mode != "disabled" else None
    return Meta(
        writer=urandom(16).hex(),
        role="trainer",
        project=identity.project,
        run_id=identity.run_id,
        attempt=identity.attempt,
        rank=identity.ranks.rank,
        world_size=identity.ranks.world_size,
        host=hostname(),
        boot_id=boot_id(),
        pid_ns=pid_namespace(),
        pid=getpid(),
        started_at_ns=time.time_ns(),
        route=LOCAL if kafka is None else KAFKA,
        destination={} if kafka is None else kafka.public(),
        mode=settings.mode,
        sdk=__version__,
    )


def _named_tags(tags: Mapping[str, Any] | Iterable[str]) -> dict[str, str]:
    """Return tags as a mapping; a sequence of names gets empty values."""
    if isinstance(tags, Mapping):
        return {str(key): str(value) for key, value in tags.items()}
    if isinstance(tags, str):
        return {tags: ""}
    return {str(name): "" for name in tags}
