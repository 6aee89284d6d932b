"""Earlier attempts of a run, found on this disk, in the object store and in ClickHouse."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from runwire.errors import ConfigError, RunwireError
from runwire_disk.spool.run_notes import read_note
from runwire_disk.spool.writer import folder_prefix

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from runwire.job.identity import Identity
    from runwire.settings import Settings
    from runwire_disk.spool.format import Meta

__all__ = ["RESUME_WORDS", "EarlierRun", "Start", "find_start"]

RESUME_WORDS: Final = ("auto", "allow", "must", "never")
# Functions (root, project, run_id) -> (is known, last step) of packages that can ask a database.
# They return None where no database is configured.
LOOKUP_GROUP: Final = "runwire.lookup"
# Seconds that a start waits for each of them.
LOOKUP_S = 20.0
_log = logging.getLogger("runwire")

Answer = tuple[bool, int | None] | None
Lookup = Callable[[Path, str, str], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierRun:
    """Traces of a run before this start: the last step, and a writer that still lives."""

    is_known: bool = False
    last_step: int | None = None
    living: Meta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """First implicit step of this process, the attempt it belongs to, whether the run is known."""

    step: int = 0
    attempt: str
    is_known: bool = False


def find_start(settings: Settings, identity: Identity, resume: str) -> Start:
    """Return where this process starts in its run under the resume rule.

    A living writer of the same rank is joined: its points and those of this process are one
    attempt, so that neither hides the other's.
    Raises: ConfigError when the rule forbids this start. Blocks: for the store and ClickHouse, at
    most LOOKUP_S each, unless `resume` is "auto" or the run is known on this disk.
    """
    if resume not in RESUME_WORDS:
        raise ConfigError(f"resume={resume!r} is unknown; use 'auto', 'allow', 'must' or 'never'")
    earlier = _on_this_disk(settings.root, identity)
    if not earlier.is_known and resume != "auto":
        earlier = _elsewhere(settings, identity, resume)
    if resume == "never" and earlier.is_known:
        raise ConfigError(
            f"run {identity.run_id!r} of project {identity.project!r} exists already and "
            "resume='never'; choose another run_id, or resume='allow' to continue it as a new "
            "attempt"
        )
    if earlier.living is not None:
        _warn_of(earlier.living)
        return Start(attempt=earlier.living.attempt, is_known=True)
    step = 0 if earlier.last_step is None else earlier.last_step + 1
    return Start(step=step, attempt=identity.attempt, is_known=earlier.is_known)


def _on_this_disk(root: Path, identity: Identity) -> EarlierRun:
    """Return what the notes and the spool folders of the data root show of earlier attempts."""
    note = read_note(root, identity.project, identity.run_id)
    if note.get("attempt") == identity.attempt:  # rank 0 of this very attempt was faster
        is_known = (note.get("attempt_number") or 1) > 1
        last = (note.get("first_step") or 0) - 1
    else:
        is_known, last = bool(note), note.get("last_step")
    steps = [last] if is_known and isinstance(last, int) else []
    living = None
    if identity.source == "random":
        return EarlierRun()  # nobody else can have this id
    from runwire_disk.spool.progress import progress
    from runwire_disk.spool.reader import writer_alive

    for folder, meta in _folders_of(root, identity):
        is_known = True
        try:
            if writer_alive(folder):
                living = meta
            elif (step := progress(folder).last_step) is not None:
                steps.append(step)
        except OSError:
            continue  # delivered and deleted meanwhile; then there is a note
    return EarlierRun(is_known=is_known, last_step=max(steps, default=None), living=living)


def _folders_of(root: Path, identity: Identity) -> Iterator[tuple[Path, Meta]]:
    """Yield the folders of this rank's trainers in earlier attempts."""
    from runwire_disk.spool.reader import list_folders, read_meta

    prefix = folder_prefix(identity.run_id, identity.ranks.rank)
    for folder in list_folders(root):
        if not folder.name.startswith(prefix):
            continue
        try:
            meta = read_meta(folder)
        except RunwireError:
            continue  # damaged, or deleted meanwhile
        is_this = (meta.project, meta.run_id) == (identity.project, identity.run_id)
        if is_this and meta.worker_of is None and meta.attempt != identity.attempt:
            yield folder, meta


def _warn_of(living: Meta) -> None:
    _log.warning(
        "runwire: process %d on host %s is writing to run %s now. This process logs into the same "
        "attempt, and the points of both are kept. If that is not intended, give this process "
        "another run_id, or remove RUNWIRE_RUN_ID from its environment.",
        living.pid,
        living.host,
        living.run_id,
    )


def _elsewhere(settings: Settings, identity: Identity, resume: str) -> EarlierRun:
    """Ask the object store and the databases. Raises: ConfigError when "must" finds no trace."""
    if resume == "never" and identity.ranks.rank:
        return EarlierRun()  # rank 0 asks: its own record must not forbid the others
    places: list[tuple[str, Lookup]] = []
    if settings.s3_endpoint:
        places.append((settings.s3_endpoint, _store_lookup(settings)))
    places += _installed_lookups()
    asked, problems = [f"the data root {settings.root}"], []
    is_known, steps = False, []
    for place, lookup in places:
        try:
            answer = _ask(lookup, settings.root, identity)
        except (RunwireError, OSError, ValueError, ImportError, AttributeError) as error:
            problems.append(f"{place} could not be asked: {error}")
            continue
        if answer is None:
            continue
        asked.append(place)
        is_known = is_known or answer[0]
        if answer[1] is not None:
            steps.append(answer[1])
    if is_known:
        return EarlierRun(is_known=True, last_step=max(steps, default=None))
    if resume == "must":
        raise ConfigError(_no_trace(identity, asked, problems))
    for problem in problems:
        _log.warning(
            "runwire: resume=%r: %s; run %s counts as new", resume, problem, identity.run_id
        )
    return EarlierRun()


def _ask(lookup: Lookup, root: Path, identity: Identity) -> Answer:
    """Return a lookup's answer. Raises: its error, TimeoutError. Blocks: at most LOOKUP_S.

    A server that accepts a connection and says nothing would otherwise hold the start for the
    minutes that its client waits, and retries.
    """
    import threading  # only a start that asks others pays for it

    answers: list[Answer] = []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            answers.append(lookup(root, identity.project, identity.run_id))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=ask, name="runwire-lookup", daemon=True)
    thread.start()
    thread.join(LOOKUP_S)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {LOOKUP_S:.0f} s")
    return answers[0]


def _no_trace(identity: Identity, asked: list[str], problems: list[str]) -> str:
    run = f"run {identity.run_id!r} of project {identity.project!r}"
    where = " or ".join(asked)
    if problems:
        return (
            f"resume='must', but {run} is not known in {where}, and {'; '.join(problems)}. Try "
            "again, or use resume='allow'"
        )
    return (
        f"resume='must', but no {run} was started from or is known in {where}; check run_id and "
        "RUNWIRE_DIR (on another machine also RUNWIRE_S3_ENDPOINT or RUNWIRE_CLICKHOUSE_URL), or "
        "use resume='allow'"
    )


def _store_lookup(settings: Settings) -> Lookup:
    def look(root: Path, project: str, run_id: str) -> tuple[bool, int | None]:
        from runwire_store.catalog import Catalog
        from runwire_store.open import open_store

        store = open_store(settings.s3, root)
        try:
            catalog = Catalog(store)
            steps = [view.step for view in catalog.checkpoints(project, run_id)]
            is_known = bool(steps) or bool(catalog.artifacts(project, run_id=run_id))
        finally:
            store.close()
        return is_known, max(steps, default=None)

    return look


def _installed_lookups() -> list[tuple[str, Lookup]]:
    from importlib.metadata import entry_points

    return [(entry.name, _lookup_of(entry)) for entry in entry_points(group=LOOKUP_GROUP)]


def _lookup_of(entry: EntryPoint) -> Lookup:
    def look(root: Path, project: str, run_id: str) -> Answer:
        answer: Answer = entry.load()(root, project, run_id)
        return answer

    return look
