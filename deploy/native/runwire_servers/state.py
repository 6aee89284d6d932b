"""State file of an instance: its servers, their addresses and their processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from runwire_servers import ServersError
from runwire_servers.places import Places, write_private
from runwire_servers.processes import Process


@dataclass(slots=True)
class Record:
    """One server. `facts` is what a client needs besides the address, including secrets."""

    version: str = ""
    address: str = ""
    started_at: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)

    def running(self) -> dict[str, Process]:
        """Return the processes that are running."""
        return {label: process for label, process in self.processes.items() if process.alive()}


@dataclass(slots=True)
class State:
    """All servers of an instance; it is removed once the process `owner` has ended."""

    servers: dict[str, Record] = field(default_factory=dict)
    owner: Process | None = None


def load(places: Places) -> State:
    """Return the state; empty if there is no file. Raises: ServersError."""
    try:
        found = json.loads(places.state.read_text())
        owner = Process(**found["owner"]) if found["owner"] else None
        return State({name: _record(facts) for name, facts in found["servers"].items()}, owner)
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ServersError(
            f"{places.state} cannot be read ({error!r}): stop its servers by hand, "
            "then delete the file"
        ) from error


def _record(facts: dict[str, Any]) -> Record:
    processes = {label: Process(**process) for label, process in facts.pop("processes").items()}
    return Record(**facts, processes=processes)


def save(places: Places, state: State) -> None:
    """Replace the file in one step; only this user may read it, as it holds passwords."""
    facts = {
        "owner": state.owner.as_dict() if state.owner else None,
        "servers": {name: asdict(record) for name, record in sorted(state.servers.items())},
    }
    write_private(places.state, json.dumps(facts, indent=2) + "\n")
