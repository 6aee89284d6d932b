"""Start of a run: settings and identity resolved, spool opened, agent started."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, getpid, urandom
from typing import Any, Final, Never

from runwire.agent_launch import ensure_agent
from runwire.announcements import say, say_started
from runwire.conversion import ANY, FLAG, PARENT, PATH, RANKS, SETTINGS, TAGS, TEXT, WORD_OR_FLAG
from runwire.current import active_run, live_run, own_run, push
from runwire.errors import ConfigError
from runwire.guard import Guard, starting_call
from runwire.job.earlier_runs import Start, find_start
from runwire.job.environment import environment_facts
from runwire.job.identity import Identity, identify
from runwire.job.launches import announce_launch
from runwire.other_trackers import instead_at_init
from runwire.process import exits, notebook
from runwire.process.exits import outcome_of
from runwire.run import Run
from runwire.session import Session
from runwire.settings import Settings
from runwire.tags import named_tags
from runwire.version import __version__
from runwire_disk import fork
from runwire_disk.host import boot_id, hostname, pid_namespace
from runwire_disk.paths import pin_state_dir
from runwire_disk.spool.format import KAFKA, LOCAL, Meta
from runwire_disk.spool.run_notes import attempt_count, read_note, write_note

__all__ = ["init", "start_run"]

_log = logging.getLogger("runwire")
_started = 0
# wandb's words for `reinit`, and what True and False stand for.
FINISH, RETURN, CREATE = "finish_previous", "return_previous", "create_new"
_REINIT: Final = {None: None, True: FINISH, False: RETURN, FINISH: FINISH, RETURN: RETURN}


@starting_call(
    needed=("project", "run_id", "resume", "mode", "dir", "ranks", "settings", "id", "reinit"),
    project=TEXT,
    name=TEXT,
    run_id=TEXT,
    config=ANY,
    group=TEXT,
    job_type=TEXT,
    tags=TAGS,
    notes=TEXT,
    parent=PARENT,
    resume=WORD_OR_FLAG,
    mode=TEXT,
    dir=PATH,
    ranks=RANKS,
    settings=SETTINGS,
    id=TEXT,
    reinit=WORD_OR_FLAG,
)
def init(  # noqa: PLR0913 - the surface people know from wandb
    project: str | None = None,
    *,
    name: str | None = None,
    run_id: str | None = None,
    config: Any = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: Mapping[str, Any] | Iterable[str] | None = (),
    notes: str | None = None,
    parent: str | Run | None = None,
    resume: str | bool | None = "auto",
    mode: str | None = None,
    dir: str | PathLike[str] | None = None,  # noqa: A002 - the name people know from wandb
    ranks: str | int | Sequence[int] | None = None,
    settings: Settings | None = None,
    id: str | None = None,  # noqa: A002 - the name people know from wandb
    reinit: bool | str | None = None,
    **unknown: Never,
) -> Run:
    """Start a run and make it the current one of this thread or task.

    Ranks of one job share one run without talking to each other; `ranks` is "all" (the default),
    "zero" or those whose metrics are recorded. `resume` is "auto", "allow" (also True), "must" or
    "never" for a run id that exists already; `id` is another name of `run_id`.

    A run of this thread that is still open is ended as finished first, unless it is a `with`
    block or the `parent` of this one. `reinit` is that rule's name "finish_previous" (also True),
    "return_previous" (also False: return the open run), or "create_new" (keep both).

    Raises: ConfigError for unusable arguments or settings, SpoolError when the data root cannot
    be written. Nothing raises afterwards unless strict.
    """
    global _started
    if unknown:
        raise ConfigError(_unknown_argument(min(unknown)))
    previous, rule = _previous(), _check_reinit(reinit)
    if previous is not None and rule == RETURN:
        _log.warning(
            "runwire: init returns the open run %s; its arguments are ignored", previous.id
        )
        return previous
    asked: dict[str, Any]
    asked = {"project": project, "run_id": run_id if id is None else id, "mode": mode, "dir": dir}
    asked |= {"group": group, "ranks": ranks}
    asked["parent_run_id"] = parent.id if isinstance(parent, Run) else parent
    resolved = _resolve(settings, parent, asked)
    identity = identify(resolved.project, resolved.run_id, nth=_started)
    over = _replaced(previous, identity, parent, rule)
    if over is not None and over.id == identity.run_id and resume != "never":
        _end(over)  # a cell that runs again continues after its own steps
    start = _resume(resolved, identity, resume)
    identity = replace(identity, attempt=start.attempt)
    _end(over)
    about = {"name": name, "job_type": job_type, "notes": notes}
    run = _open(resolved, identity, start, tags=named_tags(tags), about=about)
    _configure(run, config)
    push(run)
    _started += 1
    return run


def _configure(run: Run, config: Any) -> None:
    """Set the parameters. Raises: ConfigError in strict mode; the run has then failed."""
    if config is None:
        return
    try:
        run.config.update(config)
    except ConfigError:
        run.finish("failed")
        raise


def _open(
    settings: Settings,
    identity: Identity,
    start: Start,
    *,
    tags: Mapping[str, str],
    about: Mapping[str, Any],
) -> Run:
    """Open the writer and begin the run."""
    session = Session(
        settings,
        _meta(settings, identity),
        Guard(strict=settings.strict),
        environment=environment_facts(git=settings.capture_git),
        first_step=start.step,
    )
    try:
        return _begin(session, identity, start, tags=tags, about=about)
    except BaseException as error:
        session.end(outcome_of(error))  # nobody gets the run, so nobody could end it
        raise


def _begin(
    session: Session,
    identity: Identity,
    start: Start,
    *,
    tags: Mapping[str, str],
    about: Mapping[str, Any],
) -> Run:
    """Record the start, hook into the end of the process, start the agent."""
    settings = session.settings
    # A further attempt or writer without a name leaves the run the one it has.
    name = about["name"] or (None if start.is_known else identity.run_id)
    of_settings = {"name": name, "group": settings.group, "parent_run_id": settings.parent_run_id}
    names = dict(tag.partition("=")[::2] for tag in settings.tags or ())
    counted: dict[str, Any] = {}
    if settings.mode != "disabled" and identity.ranks.rank == 0:
        counted = attempt_count(read_note(settings.root, identity.project, identity.run_id))
    run = Run(session, tags={**names, **tags}, about={**about, **of_settings, **counted})
    fork.register(session)
    exits.install(session, preempt_signals=settings.preempt_signals)
    notebook.install(session)
    if settings.mode == "online":
        ensure_agent(settings.root, settings)
    say_started(settings, session.meta, name=about["name"], first_step=start.step)
    if doubt := announce_launch(session.meta, identity.ranks):
        say(settings, doubt)
    return run


@starting_call(run_name=TEXT, nested=FLAG)
def start_run(run_name: str | None = None, *, nested: bool = False, **arguments: Any) -> Run:
    """Start a run under MLflow's name for it; `nested` makes the current run its parent."""
    parent = active_run()
    if nested and parent is not None:
        arguments.setdefault("parent", parent)
    if run_name is not None:
        arguments["name"] = run_name
    return init(**arguments)


def _resolve(
    settings: Settings | None, parent: str | Run | None, given: dict[str, Any]
) -> Settings:
    """Return the settings of a run: arguments, `settings`, those of the parent, environment."""
    inherited: dict[str, Any] = {}
    outer = live_run(parent) if isinstance(parent, str) else parent
    if outer is not None:
        of_outer = outer._session.settings  # noqa: SLF001 - our own
        inherited = {name: getattr(of_outer, name) for name in ("dir", "group", "mode")}
        inherited["project"] = outer.project
    # Arguments that are left out do not override `settings`.
    given = {name: value for name, value in given.items() if value is not None}
    changed = settings.changed() if settings is not None else {}
    pin_state_dir(os.environ)
    resolved = Settings.resolve({**inherited, **changed, **given})
    # From here on nothing moves the folder: neither os.chdir nor a change of the environment.
    return replace(resolved, dir=str(resolved.root))


def _check_reinit(reinit: bool | str | None) -> str | None:
    words = {**_REINIT, CREATE: CREATE, "default": None}
    if not isinstance(reinit, bool | str | None) or reinit not in words:
        raise ConfigError(
            f"reinit={reinit!r} is unknown; use {FINISH!r} (True), {RETURN!r} (False) or {CREATE!r}"
        )
    return words[reinit]


def _replaced(
    previous: Run | None, identity: Identity, parent: str | Run | None, rule: str | None
) -> Run | None:
    """Return the open run of this thread if a new one ends it."""
    if previous is None or rule == CREATE:
        return None
    is_block = previous._session.is_block  # noqa: SLF001 - our own
    is_parent = parent is previous or parent == previous.id
    is_other_rank = previous.id == identity.run_id and previous.rank != identity.ranks.rank
    is_kept = rule != FINISH and (is_block or is_parent or is_other_rank)
    return None if is_kept else previous


def _previous() -> Run | None:
    """Return the open run of this thread or task that belongs to this process."""
    run = own_run()
    return None if run is None or run._session.is_foreign() else run  # noqa: SLF001 - our own


def _end(over: Run | None) -> None:
    if over is None or not over.is_active:
        return
    _log.warning(
        "runwire: run %s was still open and is ended as finished, because init starts another. "
        "Call finish() first, or pass reinit='create_new' to keep both open.",
        over.id,
    )
    over.finish()


def _unknown_argument(name: str) -> str:
    hint = instead_at_init(name)
    if hint is None:
        import difflib  # only an error pays for it

        names = init.__wrapped__.__kwdefaults__  # type: ignore[attr-defined]
        close = difflib.get_close_matches(name, ["project", *names], n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}=?" if close else f"it takes project, {', '.join(names)}"
    return f"init() has no argument {name!r}: {hint}"


def _resume(settings: Settings, identity: Identity, resume: str | bool | None) -> Start:
    """Return where this process starts in its run; note the start for the next attempt."""
    if settings.mode == "disabled":
        return Start(attempt=identity.attempt)
    word = ("allow" if resume else "auto") if isinstance(resume, bool | None) else resume
    start = find_start(settings, identity, word)
    if identity.ranks.rank == 0:
        place = (settings.root, identity.project, identity.run_id)
        # Otherwise opening the spool fails next, with a better error.
        with contextlib.suppress(OSError):
            write_note(*place, attempt=start.attempt, last_step=None, first_step=start.step)
    return start


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
