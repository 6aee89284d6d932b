"""How the Kafka destinations of a data folder fare: what waits for each, since when, and why."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runwire_consumers.stack import agent
from runwire_disk.agents.state import AgentState, read_states
from runwire_disk.spool.cursor import read_cursor
from runwire_disk.spool.destination import LOCAL, destination_of
from runwire_disk.spool.format import CURSOR_FILE, Meta, SpoolError
from runwire_disk.spool.progress import progress
from runwire_disk.spool.reader import list_folders, read_meta

OVERSIZED = "oversized-*.bin"


@dataclass(slots=True)
class _Waiting:
    destination: dict[str, Any]
    runs: set[tuple[str, str]] = field(default_factory=set)
    points: int = 0
    bytes: int = 0
    oversized: int = 0
    oldest_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Agent:
    state: AgentState
    pid: int | None  # None once it has ended


def destinations(root: Path) -> list[dict[str, Any]]:
    """One entry per Kafka destination that has folders here or an agent that lives."""
    now_s = time.time()
    waiting: dict[str, _Waiting] = {}
    for folder in list_folders(root):
        try:
            meta = read_meta(folder)
            key = destination_of(meta)
            if key != LOCAL:
                entry = waiting.setdefault(key, _Waiting(meta.destination))
                _add(entry, folder, meta, now_s)
        except (SpoolError, OSError):
            continue  # delivered and removed meanwhile, or damaged: `runwire doctor` tells
    said: dict[str, _Agent] = {}
    for path, state in read_states(root).items():
        if state.key == LOCAL:
            continue
        pid = agent.holder(path.with_suffix(".lock"))
        if pid is not None or state.key not in said:
            said[state.key] = _Agent(state, pid)
    alive = {key for key, found in said.items() if found.pid is not None}
    for key in alive - waiting.keys():
        waiting[key] = _Waiting(said[key].state.destination)
    return [_entry(key, waiting[key], said.get(key), now_s) for key in sorted(waiting)]


def lines(entry: dict[str, Any]) -> list[str]:
    """One destination for people."""
    where = entry["destination"].get("bootstrap_servers", "unknown brokers")
    prefix = entry["destination"].get("topic_prefix")
    name = f"{where} ({prefix}.*)" if prefix else where
    alive = f"agent pid {entry['agent_pid']}" if entry["agent_pid"] else "no agent"
    found = [f"kafka         {name}: {alive}, {_waiting_words(entry)}"]
    if entry["error"]:
        found.append(f"  not delivered for {_time_words(entry['error_since_s'])}: {entry['error']}")
    if entry["oversized"]:
        found.append(
            f"  {entry['oversized']} records are larger than their topics take and lie as "
            f"{OVERSIZED} in their spool folders"
        )
    if not entry["agent_pid"] and (entry["pending_points"] or entry["pending_bytes"]):
        found.append("  `runwire sync` delivers it, or the next trainer's agent")
    return found


def _add(entry: _Waiting, folder: Path, meta: Meta, now_s: float) -> None:
    entry.oversized += len(list(folder.glob(OVERSIZED)))
    if meta.role != "trainer":
        return
    done, cursor = progress(folder), read_cursor(folder)
    points = max(0, done.accepted - max(cursor.accepted, cursor.skip_accepted))
    entry.runs.add((meta.project, meta.run_id))
    if not points:
        return
    entry.points += points
    entry.bytes += done.bytes
    try:
        since_s = (folder / CURSOR_FILE).stat().st_mtime  # the last delivery of this writer
    except FileNotFoundError:
        since_s = meta.started_at_ns / 1e9
    entry.oldest_s = max(entry.oldest_s or 0.0, now_s - since_s)


def _entry(key: str, waiting: _Waiting, said: _Agent | None, now_s: float) -> dict[str, Any]:
    trouble = said.state if said is not None and said.state.sentence else None
    return {
        "key": key,
        "destination": waiting.destination,
        "agent_pid": said.pid if said is not None else None,
        "runs": len(waiting.runs),
        "pending_points": waiting.points,
        "pending_bytes": waiting.bytes,
        "oldest_pending_s": waiting.oldest_s,
        "oversized": waiting.oversized,
        "cause": trouble.cause if trouble else "",
        "error": trouble.sentence if trouble else "",
        "error_since_s": now_s - trouble.since_ns / 1e9 if trouble else None,
    }


def _waiting_words(entry: dict[str, Any]) -> str:
    if not entry["pending_points"]:
        return "everything delivered"
    return (
        f"{entry['pending_points']:,} points of {entry['runs']} runs pending "
        f"({entry['pending_bytes'] / 1e6:.1f} MB), last delivery "
        f"{_time_words(entry['oldest_pending_s'])} ago"
    )


def _time_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
