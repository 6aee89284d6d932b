"""The section of `runwire status` about the embedded stack: supervisor, engine and workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runwire_consumers.clickhouse.engine import Engine
from runwire_consumers.stack import lock, state
from runwire_consumers.stack.worker_process import ask_health
from runwire_disk import paths
from runwire_disk.agents.lock import AgentLock
from runwire_disk.agents.state import read_states
from runwire_disk.spool.format import LOCAL, SpoolError, destination_of
from runwire_disk.spool.reader import list_folders, read_meta
from runwire_disk.survey import Section, labelled
from runwire_schemas.connections.loopback import open_here

DELAY = "runwire_worker_delay_seconds"
PARTS = ("supervisor", "engine", "worker", "objects")


def survey_stack(root: Path) -> Section:
    """Return the state of every part, also when the stack is down. Blocks: up to 4 s."""
    parts = examine_parts(root)
    lines = [labelled(name, _describe(parts[name])) for name in PARTS if parts[name] is not None]
    if not parts["supervisor"]["alive"] and _is_expected(root):
        lines.append("the stack is down: `runwire up` starts it; the spool keeps what is logged")
    return Section(name="stack", order=10, facts=parts, lines=lines)


def examine_parts(root: Path) -> dict[str, Any]:
    """Return the facts of every part by its name; of "objects" None where there are no brokers."""
    running, now = lock.holder(root), state.read_state(root)
    mine = now if running is not None and now is not None and now.pid == running.pid else None
    engine_pid = Engine(paths.embedded_dir(root)).pid
    return {
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
        "worker": _worker(mine),
        "objects": _objects(mine),
    }


def _worker(mine: state.StackState | None) -> dict[str, Any]:
    part = mine.worker if mine is not None else state.ChildState()
    port, pid = part.port, part.pid
    health = ask_health(port) if port is not None and pid is not None else None
    return {
        "alive": health is not None,
        "pid": pid,
        "port": port,
        "restarts": part.restarts,
        "note": part.note,
        "state": (health or {}).get("state"),
        "reason": (health or {}).get("reason", ""),
        "delay_s": _read_metric(port, DELAY) if health is not None else None,
    }


def _objects(mine: state.StackState | None) -> dict[str, Any] | None:
    """Return the object worker; None where the stack has none, because there are no brokers."""
    if mine is None or mine.objects is None:
        return None
    part = mine.objects
    return {
        "alive": part.pid is not None,
        "pid": part.pid,
        "restarts": part.restarts,
        "note": part.note,
    }


def _read_metric(port: int | None, name: str) -> float | None:
    """Return one unlabelled sample of the worker's /metrics. Blocks: at most 2 s."""
    try:
        with open_here(f"http://127.0.0.1:{port}/metrics", timeout_s=2.0) as answer:
            text = answer.read().decode("utf-8", "replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    return None


def _is_expected(root: Path) -> bool:
    """Whether a stack belongs here: local runs wait for it, or nothing is shipped to brokers."""
    routes = set()
    for folder in list_folders(root):
        try:
            meta = read_meta(folder)
        except (SpoolError, OSError):
            continue
        if meta.role == "trainer" or destination_of(meta) != LOCAL:
            routes.add(destination_of(meta))
    if LOCAL in routes:
        return True
    is_shipping = any(
        state.key != LOCAL and AgentLock(path.with_suffix(".lock")).held()
        for path, state in read_states(root).items()
    )
    return not routes and not is_shipping


def _describe(part: dict[str, Any]) -> str:
    if not part["alive"]:
        return f"down {part.get('note', '')}".strip()
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
