"""Notes about the runs of a data root: the attempts and the last step of each.

The next attempt of a run continues after that step, also when no server can be asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from runwire_disk.files import read_json, replace_json
from runwire_disk.spool.format import Meta
from runwire_schemas.identity import run_key

__all__ = ["attempt_count", "keep_last_step", "noted_runs", "read_note", "write_note"]

# Files to read for a message: a folder of years has one for every run.
LISTED_MAX: Final = 1000


def read_note(root: Path, project: str, run_id: str) -> dict[str, Any]:
    """Return the note about a run; empty when it was not started from this root."""
    return read_json(_path(root, project, run_id)) or {}


def write_note(
    root: Path,
    project: str,
    run_id: str,
    *,
    attempt: str,
    last_step: int | None,
    first_step: int | None = None,
) -> None:
    """Note the newest attempt of a run, count its attempts, and keep its greatest step.

    `first_step` is that of a new attempt: ranks that start after rank 0 find it here.
    Raises: OSError.
    """
    path = _path(root, project, run_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    note = read_note(root, project, run_id)
    steps = [step for step in (note.get("last_step"), last_step) if isinstance(step, int)]
    count, begin = attempt_count(note), first_step
    if note.get("attempt") == attempt:
        begin = note.get("first_step")
    elif note:
        count["attempt_number"] += 1
    state = {"project": project, "run_id": run_id, "attempt": attempt, "first_attempt": attempt}
    last = max(steps, default=None)
    replace_json(path, {**state, **count, "first_step": begin, "last_step": last})


def attempt_count(note: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a start event that say how many attempts this root has counted.

    The views order attempts by this count, because the clock of a trainer may be behind.
    """
    if not note:
        return {"attempt_number": 1}
    first = note.get("first_attempt") or note.get("attempt")
    return {"attempt_number": note.get("attempt_number") or 1, "first_attempt": first}


def noted_runs(root: Path, project: str) -> list[str]:
    """Return the ids of the runs of a project that were started from this root, newest first.

    At most those of the last LISTED_MAX starts of all projects.
    """
    paths = []
    for path in (root / "runs").glob("*.json"):
        with contextlib.suppress(OSError):
            paths.append((path.stat().st_mtime_ns, path))
    notes = (read_json(path) or {} for _, path in sorted(paths, reverse=True)[:LISTED_MAX])
    return [str(note.get("run_id")) for note in notes if note.get("project") == project]


def keep_last_step(root: Path, meta: Meta, last_step: int | None) -> None:
    """Note the last step of a writer whose folder is about to be deleted. Raises: OSError.

    A trainer that was killed could not do it itself.
    """
    if last_step is None or meta.role != "trainer" or meta.worker_of is not None:
        return
    note = read_note(root, meta.project, meta.run_id)
    noted = note.get("last_step")
    if not isinstance(noted, int) or noted < last_step:
        attempt = note.get("attempt") or meta.attempt
        write_note(root, meta.project, meta.run_id, attempt=attempt, last_step=last_step)


def _path(root: Path, project: str, run_id: str) -> Path:
    return root / "runs" / f"{run_key(project, run_id).hex()}.json"
