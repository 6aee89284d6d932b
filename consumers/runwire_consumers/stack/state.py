"""What the supervisor tells the commands: one small JSON file, replaced atomically."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from runwire_disk import paths
from runwire_disk.files import read_json, replace_json

READY = "ready"
FAILED = "failed"


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
    """Where the state of this data folder lies."""
    return paths.embedded_dir(root) / "stack.json"


def logs_dir(root: Path) -> Path:
    """The folder of the stack's logs."""
    return paths.embedded_dir(root) / "logs"


def write_state(root: Path, state: StackState) -> None:
    """Replace the state file."""
    replace_json(state_file(root), asdict(state), indent=1)


def read_state(root: Path) -> StackState | None:
    """The last state written; None when there is none or it is not readable."""
    fields = read_json(state_file(root))
    if fields is None:
        return None
    try:
        fields["engine"] = Part(**fields["engine"])
        fields["worker"] = Part(**fields["worker"])
        fields["objects"] = Part(**fields["objects"]) if fields.get("objects") else None
        return StackState(**fields)
    except (KeyError, TypeError):
        return None


def log_tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log, for an error message."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
