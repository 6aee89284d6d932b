"""Runs started from this data root, remembered so that one can be resumed without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runwire.errors import ConfigError
from runwire_disk.files import read_json, replace_json
from runwire_schemas.identity import run_key


def _path(root: Path, project: str, run_id: str) -> Path:
    return root / "runs" / f"{run_key(project, run_id).hex()}.json"


def read(root: Path, project: str, run_id: str) -> dict[str, Any]:
    """Return what is remembered of a run; empty when it was not started from this root."""
    return read_json(_path(root, project, run_id)) or {}


def remember(root: Path, project: str, run_id: str, *, attempt: str, last_step: int | None) -> None:
    """Remember the last step of a run. Raises: OSError."""
    path = _path(root, project, run_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    steps = [s for s in (read(root, project, run_id).get("last_step"), last_step) if s is not None]
    state = {"project": project, "run_id": run_id, "attempt": attempt}
    replace_json(path, {**state, "last_step": max(steps, default=None)})


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
