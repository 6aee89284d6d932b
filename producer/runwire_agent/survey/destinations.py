"""Agents of a data root and their Kafka destinations: what waits for each, since when, and why."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runwire_disk.agents.lock import AgentLock, local_agents
from runwire_disk.agents.state import AgentState, read_states
from runwire_disk.spool.format import (
    CURSOR_FILE,
    LOCAL,
    OVERSIZED_GLOB,
    Meta,
    SpoolError,
    destination_of,
    read_cursor,
)
from runwire_disk.spool.progress import progress
from runwire_disk.spool.reader import list_folders, read_meta
from runwire_disk.survey import Section, labelled


def survey_agents(root: Path) -> Section:
    """Return the agents that run for this data root, and what waits for each destination."""
    entries = destinations(root)
    shipping = [entry["agent_pid"] for entry in entries if entry["agent_pid"] is not None]
    pids = local_agents(root) + shipping
    text = f"pid {pids[0]}" if pids else "none (it runs while trainers do)"
    return Section(
        name="agent",
        order=20,
        facts={
            "agent": {"alive": bool(pids), "pid": pids[0] if pids else None},
            "destinations": entries,
        },
        lines=[labelled("agent", text), *(line for entry in entries for line in lines(entry))],
    )


@dataclass(slots=True)
class _Waiting:
    destination: dict[str, Any]
    runs: set[tuple[str, str]] = field(default_factory=set)
    points: int = 0
    bytes: int = 0
    oversized: int = 0
    oldest_s: float | None = None


@dataclass(frozen=True, slots=True)
class _ShippingAgent:
    state: AgentState
    pid: int | None  # None once it has ended


def destinations(root: Path) -> list[dict[str, Any]]:
    """Return one entry per Kafka destination that has folders here or a running agent."""
    now_s = time.time()
    waiting: dict[str, _Waiting] = {}
    for folder in list_folders(root):
        try:
            meta = read_meta(folder)
            key = destination_of(meta)
            if key != LOCAL:
                _add(waiting.setdefault(key, _Waiting(meta.destination)), folder, meta, now_s)
        except (SpoolError, OSError):
            continue  # delivered and removed meanwhile, or damaged: `runwire doctor` reports it
    agents: dict[str, _ShippingAgent] = {}
    for path, state in read_states(root).items():
        if state.key == LOCAL:
            continue
        pid = AgentLock(path.with_suffix(".lock")).holder()
        if pid is not None or state.key not in agents:
            agents[state.key] = _ShippingAgent(state, pid)
    alive = {key for key, agent in agents.items() if agent.pid is not None}
    for key in alive - waiting.keys():
        waiting[key] = _Waiting(agents[key].state.destination)
    return [_entry(key, waiting[key], agents.get(key), now_s) for key in sorted(waiting)]


def lines(entry: dict[str, Any]) -> list[str]:
    """Return one destination as lines for people."""
    where = entry["destination"].get("bootstrap_servers", "unknown brokers")
    prefix = entry["destination"].get("topic_prefix")
    name = f"{where} ({prefix}.*)" if prefix else where
    alive = f"agent pid {entry['agent_pid']}" if entry["agent_pid"] else "no agent"
    shown = [labelled("kafka", f"{name}: {alive}, {_waiting_words(entry)}")]
    if entry["error"]:
        shown.append(f"  not delivered for {_time_words(entry['error_since_s'])}: {entry['error']}")
    if entry["oversized"]:
        shown.append(
            f"  {entry['oversized']} records are larger than their topics accept; they are kept as "
            f"{OVERSIZED_GLOB} in their spool folders"
        )
    if not entry["agent_pid"] and (entry["pending_points"] or entry["pending_bytes"]):
        shown.append("  `runwire sync` delivers them, or the next trainer's agent")
    return shown


def _add(entry: _Waiting, folder: Path, meta: Meta, now_s: float) -> None:
    entry.oversized += len(list(folder.glob(OVERSIZED_GLOB)))
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


def _entry(
    key: str, waiting: _Waiting, agent: _ShippingAgent | None, now_s: float
) -> dict[str, Any]:
    trouble = agent.state if agent is not None and agent.state.sentence else None
    return {
        "key": key,
        "destination": waiting.destination,
        "agent_pid": agent.pid if agent is not None else None,
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
