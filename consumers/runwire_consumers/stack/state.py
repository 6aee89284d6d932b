"""The state file of the supervisor, which the commands read; replaced atomically."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from runwire_disk import paths
from runwire_disk.files import read_json, replace_json
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
    replace_json(state_file(root), asdict(state), indent=1)


def read_state(root: Path) -> StackState | None:
    """The last state written; None when there is none or it is not readable."""
    fields = read_json(state_file(root))
    if fields is None:
        return None
    try:
        fields["engine"] = ChildState(**fields["engine"])
        fields["worker"] = ChildState(**fields["worker"])
        fields["objects"] = ChildState(**fields["objects"]) if fields.get("objects") else None
        return StackState(**fields)
    except (KeyError, TypeError):
        return None
