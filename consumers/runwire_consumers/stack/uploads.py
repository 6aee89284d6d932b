"""What waits in the outbox of a data folder, what failed there, and why it waits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runwire_disk.agents.state import read_states
from runwire_disk.paths import outbox_dir
from runwire_disk.spool.format import LOCAL

REQUEST_FILE: Final = "request.json"
REASON_FILE: Final = "reason.txt"
FAILED_PREFIX: Final = "failed-"
STALE_S = 30.0  # an agent writes its state every five seconds


@dataclass(frozen=True, slots=True)
class Request:
    """One artifact on its way, as far as `status` tells it."""

    destination: str
    endpoint: str
    mode: str
    bytes: int
    created_at_ns: int

    def is_served(self, environ: Mapping[str, str]) -> bool:
        """Whether an agent of the embedded route ships it, started with this environment."""
        if self.destination != LOCAL:
            return False
        return not self.endpoint or (
            self.mode != "offline" and bool(environ.get("RUNWIRE_S3_ENDPOINT"))
        )


def waiting(root: Path) -> Iterator[Request]:
    """Yield the committed requests of the outbox."""
    for folder in _folders(root):
        if not folder.name.startswith((".", FAILED_PREFIX)):
            try:
                yield _request(json.loads((folder / REQUEST_FILE).read_bytes()))
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                continue  # not committed yet, gone meanwhile, or damaged: the agent sets it aside


def uploads(root: Path) -> dict[str, Any]:
    """What waits, what failed, and what the agents say of it."""
    found = list(waiting(root))
    failed = [folder for folder in _folders(root) if folder.name.startswith(FAILED_PREFIX)]
    now_s = time.time()
    said = [
        state.uploads
        for state in read_states(root).values()
        if state.uploads and found and now_s - state.at_ns / 1e9 < STALE_S
    ]
    trouble = next((each for each in said if each.get("cause")), {})
    current = next((each for each in said if each.get("current")), {})
    since_ns = trouble.get("since_ns", 0)
    return {
        "waiting": len(found),
        "bytes": sum(request.bytes for request in found),
        "oldest_s": max((now_s - r.created_at_ns / 1e9 for r in found), default=None),
        "current": current.get("current", ""),
        "bytes_left": sum(each.get("bytes_left", 0) for each in said) if said else None,
        "cause": trouble.get("cause", ""),
        "error": trouble.get("sentence", ""),
        "error_since_s": now_s - since_ns / 1e9 if since_ns else None,
        "failed": {folder.name: _reason(folder) for folder in failed},
    }


def lines(entry: dict[str, Any]) -> list[str]:
    """The outbox for people; nothing when it is empty."""
    found = []
    if entry["waiting"]:
        left = entry["bytes"] if entry["bytes_left"] is None else entry["bytes_left"]
        words = f"{entry['waiting']:,} waiting, {left / 1e6:,.1f} MB left to upload"
        if entry["current"]:
            words += f", now {entry['current']!r}"
        found.append(f"artifacts     {words}; the oldest for {entry['oldest_s']:.0f} s")
        if entry["error"]:
            found.append(f"  not uploaded for {entry['error_since_s']:.0f} s: {entry['error']}")
        elif not entry["current"] and entry["bytes_left"] is None:
            found.append("  no agent is here: `runwire sync` uploads them, or the next trainer's")
    for name, reason in entry["failed"].items():
        found.append(f"  an artifact failed and is kept as outbox/{name}: {reason}")
    return found


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(outbox_dir(root).iterdir())
    except OSError:
        return []


def _request(fields: dict[str, Any]) -> Request:
    return Request(
        destination=fields["destination"],
        endpoint=fields["store"].get("endpoint", ""),
        mode=fields["mode"],
        bytes=sum(file["size"] for file in fields["files"] if not file["source"]),
        created_at_ns=fields["created_at_ns"],
    )


def _reason(folder: Path) -> str:
    try:
        return (folder / REASON_FILE).read_text("utf-8", "replace").strip()
    except OSError:
        return "no reason is known"
