"""How the parts of a data folder fare, with and without a running stack."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from runwire_consumers.clickhouse.engine import Engine
from runwire_consumers.core.dead_letters import FileDeadLetters
from runwire_consumers.stack import agent, destinations, letters, lock, state, uploads
from runwire_consumers.stack.worker_process import ask_health
from runwire_disk import paths
from runwire_disk.spool.format import LOCAL, SpoolError, destination_of, read_cursor
from runwire_disk.spool.progress import progress
from runwire_disk.spool.reader import list_folders, read_meta, writer_alive

DELAY = "runwire_worker_delay_seconds"


def survey(root: Path) -> dict[str, Any]:
    """Everything `runwire status --json` prints."""
    running, now = lock.holder(root), state.read_state(root)
    mine = now if running is not None and now is not None and now.pid == running.pid else None
    engine_pid = Engine(paths.embedded_dir(root)).pid
    worker_pid = mine.worker.pid if mine is not None else None
    shipped = destinations.destinations(root)
    shipping = [entry["agent_pid"] for entry in shipped if entry["agent_pid"] is not None]
    watching = agent.running(root) + shipping
    return {
        "dir": str(root),
        "supervisor": {
            "alive": running is not None,
            "pid": running.pid if running else None,
            "stage": mine.stage if mine else "down",
        },
        "engine": {
            "alive": engine_pid is not None,
            "pid": engine_pid,
            "port": mine.engine.port if mine else None,
            "restarts": mine.engine.restarts if mine else 0,
            "note": mine.engine.note if mine else "",
        },
        "worker": _worker(mine, worker_pid),
        "objects": _objects(mine),
        "agent": {"alive": bool(watching), "pid": watching[0] if watching else None},
        "destinations": shipped,
        "uploads": uploads.uploads(root),
        "runs": pending(root),
        "dead_letters": dead_letters(root),
    }


def _worker(mine: state.StackState | None, pid: int | None) -> dict[str, Any]:
    port = mine.worker.port if mine is not None else None
    health = ask_health(port) if port is not None and pid is not None else None
    return {
        "alive": health is not None,
        "pid": pid,
        "port": port,
        "restarts": mine.worker.restarts if mine else 0,
        "note": mine.worker.note if mine else "",
        "state": (health or {}).get("state"),
        "reason": (health or {}).get("reason", ""),
        "delay_s": read_metric(port, DELAY) if health is not None else None,
    }


def _objects(mine: state.StackState | None) -> dict[str, Any] | None:
    """The object worker; None where the stack has none, because there are no brokers."""
    if mine is None or mine.objects is None:
        return None
    part = mine.objects
    return {
        "alive": part.pid is not None,
        "pid": part.pid,
        "restarts": part.restarts,
        "note": part.note,
    }


def read_metric(port: int | None, name: str) -> float | None:
    """One unlabelled sample of the worker's /metrics. Blocks: at most 2 s."""
    if port is None:
        return None
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
            text = answer.read().decode("utf-8", "replace")
    except (OSError, urllib.error.URLError):
        return None
    for line in text.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    return None


def pending(root: Path) -> list[dict[str, Any]]:
    """Per run: its writers in the spool and what they accepted that is not yet stored."""
    runs: dict[tuple[str, str], dict[str, Any]] = {}
    for folder in list_folders(root):
        try:
            meta, done, cursor = read_meta(folder), progress(folder), read_cursor(folder)
        except (SpoolError, OSError):
            continue  # delivered and removed meanwhile, or damaged: `runwire doctor` tells
        if meta.role != "trainer":
            continue
        entry = runs.setdefault(
            (meta.project, meta.run_id),
            {
                "project": meta.project,
                "run_id": meta.run_id,
                "destination": destination_of(meta),
                "writers": 0,
                "live_writers": 0,
                "pending_points": 0,
                "spool_bytes": 0,
                "last_step": None,
            },
        )
        entry["writers"] += 1
        entry["live_writers"] += writer_alive(folder)
        passed = max(cursor.accepted, cursor.skip_accepted)
        entry["pending_points"] += max(0, done.accepted - passed)
        entry["spool_bytes"] += done.bytes
        if done.last_step is not None:
            entry["last_step"] = max(done.last_step, entry["last_step"] or done.last_step)
    return list(runs.values())


def dead_letters(root: Path) -> int:
    """How many records the embedded worker set aside."""
    folder = letters.folder(root)
    return FileDeadLetters(folder).count() if folder.is_dir() else 0


def as_text(found: dict[str, Any]) -> str:
    """The survey for people."""
    parts = ("supervisor", "engine", "worker", "objects", "agent")
    lines = [
        f"data folder   {found['dir']}",
        *(f"{name:<13} {_part(name, found[name])}" for name in parts if found[name] is not None),
        f"dead letters  {found['dead_letters']}",
        *(line for entry in found["destinations"] for line in destinations.lines(entry)),
        *uploads.lines(found["uploads"]),
    ]
    if not found["runs"]:
        lines.append("spool         empty: everything logged here is stored")
    for run in found["runs"]:
        live = f"{run['live_writers']} of {run['writers']} writers live"
        lines.append(
            f"  run {run['run_id']} ({run['project']}): {run['pending_points']:,} points pending, "
            f"{run['spool_bytes'] / 1e6:.1f} MB, {live}"
        )
    is_local = any(run["destination"] == LOCAL for run in found["runs"])
    if not found["supervisor"]["alive"] and (is_local or not found["destinations"]):
        lines.append("the stack is down: `runwire up` starts it; the spool keeps what is logged")
    return "\n".join(lines)


def _part(name: str, part: dict[str, Any]) -> str:
    if not part["alive"]:
        idle = name == "agent"
        return (
            "none (it runs while trainers do)" if idle else f"down {part.get('note', '')}".strip()
        )
    words = [f"pid {part['pid']}"]
    if part.get("port"):
        words.append(f"port {part['port']}")
    if part.get("stage"):
        words.append(part["stage"])
    if part.get("state"):
        words.append(part["state"])
    if part.get("delay_s") is not None:
        words.append(f"last batch {part['delay_s']:.2f} s old when stored")
    if part.get("restarts"):
        words.append(f"restarted {part['restarts']} times")
    return ", ".join(words + [text for text in (part.get("reason"), part.get("note")) if text])
