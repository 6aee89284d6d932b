"""The state file of the supervisor, which the commands read; replaced atomically."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from runwire_disk import paths
from runwire_schemas.errors import CommandError

READY = "ready"
FAILED = "failed"


class StackError(CommandError):
    """The stack or one of its commands failed for a reason that a user can act on."""


@dataclass(kw_only=True, slots=True)
class Part:
    """One child of the supervisor."""

    pid: int | None = None
    port: int | None = None
    restarts: int = 0
    note: str = ""


@dataclass(kw_only=True, slots=True)
class StackState:
    """The stage of the stack and its parts; `pid` says whose state this is."""

    pid: int
    stage: str = "starting"
    error: str = ""
    engine: Part = field(default_factory=Part)
    worker: Part = field(default_factory=Part)
    objects: Part | None = None  # without Kafka the agents write to the store themselves


def state_file(root: Path) -> Path:
    """Return the path of the state file of this data folder."""
    return paths.embedded_dir(root) / "stack.json"


def logs_dir(root: Path) -> Path:
    """Return the folder of the stack's logs."""
    return paths.embedded_dir(root) / "logs"


def write_state(root: Path, state: StackState) -> None:
    """Replace the state file."""
    target = state_file(root)
    draft = target.with_suffix(".tmp")
    draft.write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
    draft.replace(target)


def read_state(root: Path) -> StackState | None:
    """Return the last state written; None when there is none or it is not readable."""
    try:
        fields = json.loads(state_file(root).read_text(encoding="utf-8"))
        fields["engine"] = Part(**fields["engine"])
        fields["worker"] = Part(**fields["worker"])
        fields["objects"] = Part(**fields["objects"]) if fields.get("objects") else None
        return StackState(**fields)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def log_tail(path: Path, lines: int = 12) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
