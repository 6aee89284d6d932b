"""Runs started from this data root, remembered so that one can be resumed without a server."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from runwire.errors import ConfigError
from runwire_disk.files import read_json, replace_json
from runwire_schemas.identity import run_key

LISTED_MAX: Final = 1000  # files to read for a message


def _path(root: Path, project: str, run_id: str) -> Path:
    return root / "runs" / f"{run_key(project, run_id).hex()}.json"


def read(root: Path, project: str, run_id: str) -> dict[str, Any]:
    """Return what is remembered of a run; empty when it was not started from this root."""
    return read_json(_path(root, project, run_id)) or {}


def remember(root: Path, project: str, run_id: str, *, attempt: str, last_step: int | None) -> None:
    """Remember the last step of a run, and count its attempts. Raises: OSError."""
    path = _path(root, project, run_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = read(root, project, run_id)
    steps = [s for s in (known.get("last_step"), last_step) if s is not None]
    count = attempt_count(known)
    if known and known.get("attempt") != attempt:
        count["attempt_number"] += 1
    state = {"project": project, "run_id": run_id, "attempt": attempt}
    count = {"first_attempt": attempt} | count
    replace_json(path, {**state, **count, "last_step": max(steps, default=None)})


def attempt_count(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a start event that say how many attempts this root has counted.

    The views order attempts by this count, because the clock of a trainer may be behind.
    """
    if not known:
        return {"attempt_number": 1}
    first = known.get("first_attempt") or known.get("attempt")
    return {"attempt_number": known.get("attempt_number") or 1, "first_attempt": first}


def names(root: Path, project: str) -> list[str]:
    """Return the ids of the runs of a project that were started from this root, newest first.

    At most those of the last LISTED_MAX starts of all projects.
    """
    paths = []
    for path in (root / "runs").glob("*.json"):
        with contextlib.suppress(OSError):
            paths.append((path.stat().st_mtime_ns, path))
    states = (read_json(path) or {} for _, path in sorted(paths, reverse=True)[:LISTED_MAX])
    return [str(state.get("run_id")) for state in states if state.get("project") == project]


def first_step(root: Path, project: str, run_id: str, *, attempt: str, resume: str) -> int:
    """Return the step that an implicit count starts at under the resume rule.

    Raises: ConfigError when the rule forbids this start.
    """
    if resume not in ("auto", "allow", "must", "never"):
        raise ConfigError(f"resume={resume!r} is unknown; use 'auto', 'allow', 'must' or 'never'")
    state = read(root, project, run_id)
    earlier = bool(state) and state.get("attempt") != attempt
    if resume == "never" and earlier:
        raise ConfigError(
            f"run {run_id!r} of project {project!r} exists already and resume='never'; choose "
            "another run_id, or resume='allow' to continue it as a new attempt"
        )
    if resume == "must" and not state:
        raise ConfigError(
            f"resume='must', but no run {run_id!r} of project {project!r} was started from "
            f"{root}; check run_id and RUNWIRE_DIR, or use resume='allow'"
        )
    last = state.get("last_step")
    return last + 1 if earlier and isinstance(last, int) else 0
