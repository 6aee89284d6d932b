"""State of an agent, a file beside its lock: the progress of deliveries and uploads."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from runwire_disk.files import read_json, replace_json
from runwire_disk.paths import agents_dir
from runwire_schemas.connections.secret import read_facts

STATE_SUFFIX = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentState:
    """One agent of one destination; `cause` and `sentence` are empty while it delivers.

    `key` is "local" for an agent without brokers, which reports uploads alone.

    Units: instants in nanoseconds since 1970.
    """

    key: str
    destination: dict[str, Any] = field(default_factory=dict)
    pid: int = 0
    mode: str = "process"
    at_ns: int = 0
    cause: str = ""
    sentence: str = ""
    since_ns: int = 0
    delivered: int = 0
    set_aside: int = 0
    # Of artifacts that wait: waiting, bytes_left, bytes_done, cause, sentence, since_ns, store ...
    uploads: dict[str, Any] = field(default_factory=dict)


def write_state(path: Path, state: AgentState) -> None:
    """Replace the state in one step. Raises: OSError."""
    replace_json(path, asdict(state))


def read_state(path: Path) -> AgentState | None:
    """Return the state that an agent wrote; None when there is none, or it is unreadable."""
    names = {row.name for row in fields(AgentState)}
    raw = read_json(path)
    if raw is None or "key" not in raw:
        return None
    try:
        for facts, name in ((raw, "destination"), (raw.get("uploads", {}), "store")):
            if name in facts:
                facts[name] = read_facts(facts[name])
        return AgentState(**{name: value for name, value in raw.items() if name in names})
    except (ValueError, TypeError, AttributeError):
        return None


def read_states(root: Path) -> dict[Path, AgentState]:
    """Return the states that agents of a data root wrote, by file."""
    paths = sorted(agents_dir(root).glob(f"*{STATE_SUFFIX}"))
    states = ((path, read_state(path)) for path in paths)
    return {path: state for path, state in states if state is not None}
