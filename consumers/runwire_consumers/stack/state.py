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
class ChildState:
    """The state of one child process of the supervisor."""

    pid: int | None = None
    port: int | None = None
    restarts: int = 0
    note: str = ""


@dataclass(kw_only=True, slots=True)
class StackState:
    """The stage of the stack and its children; `pid` is that of the supervisor that wrote it."""

    pid: int
    stage: str = "starting"
    error: str = ""
    engine: ChildState = field(default_factory=ChildState)
    worker: ChildState = field(default_factory=ChildState)
    objects: ChildState | None = None  # without Kafka the agents write to the store themselves


def state_file(root: Path) -> Path:
    """Return the path of the state file of this data folder."""
    return paths.embedded_dir(root) / "stack.json"


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
        fields["engine"] = ChildState(**fields["engine"])
        fields["worker"] = ChildState(**fields["worker"])
        fields["objects"] = ChildState(**fields["objects"]) if fields.get("objects") else None
        return StackState(**fields)
    except (OSError, ValueError, KeyError, TypeError):
        return None
