"""Notes about the runs of a data root: the newest attempt and the last step of each.

The next attempt of a run continues after that step, also when no server can be asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runwire_disk.files import read_json, replace_json
from runwire_disk.spool.format import Meta
from runwire_schemas.identity import run_key

__all__ = ["attempt_count", "keep_last_step", "read_note", "write_note"]


def read_note(root: Path, project: str, run_id: str) -> dict[str, Any]:
    """Return the note about a run; empty when it was not started from this root."""
    return read_json(_path(root, project, run_id)) or {}


def write_note(
    root: Path, project: str, run_id: str, *, attempt: str, last_step: int | None
) -> None:
    """Note the newest attempt of a run, the number of its attempts and the greatest last step.

    Raises: OSError.
    """
    path = _path(root, project, run_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    note = read_note(root, project, run_id)
    steps = [step for step in (note.get("last_step"), last_step) if isinstance(step, int)]
    count = attempt_count(note)
    if note and note.get("attempt") != attempt:
        count["attempt_number"] += 1
    state = {"project": project, "run_id": run_id, "attempt": attempt}
    count = {"first_attempt": attempt} | count
    replace_json(path, {**state, **count, "last_step": max(steps, default=None)})


def attempt_count(note: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number of the noted attempt among those that this root has counted, and the first.

    A count, because the clock of a trainer may be behind that of an earlier attempt.
    """
    if not note:
        return {"attempt_number": 1}
    first = note.get("first_attempt") or note.get("attempt")
    return {"attempt_number": note.get("attempt_number") or 1, "first_attempt": first}


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
