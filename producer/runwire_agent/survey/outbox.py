"""The outbox and the object store of a data root: waiting and failed artifacts, with causes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runwire_disk.agents.state import read_states
from runwire_disk.outbox.requests import read_failed, read_waiting
from runwire_disk.survey import FAIL, OK, WARN, Finding, Section, install_command, labelled
from runwire_schemas.connections import s3 as s3_settings
from runwire_store.open import open_store
from runwire_store.store import StoreError

STALE_S = 30.0  # an agent writes its state every five seconds
_STORE = "object store"


def survey_outbox(root: Path) -> Section:
    """Return the artifacts that wait or failed."""
    entry = uploads(root)
    return Section(name="outbox", order=50, facts={"uploads": entry}, lines=lines(entry))


def check_outbox(root: Path) -> Section:
    """Check that artifacts make progress and none failed."""
    entry = uploads(root)
    text = f"{entry['waiting']:,} artifacts, {entry['bytes'] / 1e6:,.1f} MB"
    if entry["error"]:
        finding = Finding(WARN, "outbox", text, entry["error"])
    elif entry["failed"]:
        advice = "`runwire status` names the reasons; log these artifacts again"
        finding = Finding(WARN, "outbox", f"{text}; {len(entry['failed'])} failed", advice)
    else:
        finding = Finding(OK, "outbox", text)
    return Section(name="outbox", order=50, findings=[finding])


def check_store(root: Path) -> Section:
    """Check that the store of the environment answers, else the folder of the data root.

    Blocks: for some seconds when the store does not answer.
    """
    return Section(name=_STORE, order=60, findings=[examine_store(os.environ, root)])


def examine_store(environ: Mapping[str, str], root: Path) -> Finding:
    """Return whether the store that `environ` names answers, else the folder of `root`."""
    try:
        settings = s3_settings.from_environment(environ)
    except s3_settings.S3SettingsError as error:
        return Finding(FAIL, _STORE, "its settings contradict each other", str(error))
    name = f"folder {root}" if settings is None else f"{settings.bucket} at {settings.url}"
    try:
        store = open_store(settings, root)
        try:
            store.check()
        finally:
            store.close()
    except ModuleNotFoundError as error:
        advice = f"its client is not installed: {install_command(error)}"
        return Finding(FAIL, _STORE, f"{name} cannot be used", advice)
    except StoreError as error:
        return Finding(FAIL, _STORE, f"{name} cannot be used", str(error))
    return Finding(OK, _STORE, store.uri if settings is None else name)


def uploads(root: Path) -> dict[str, Any]:
    """Return counts of waiting and failed artifacts, with the progress that agents report."""
    requests = list(read_waiting(root))
    now_s = time.time()
    reports = [
        state.uploads
        for state in read_states(root).values()
        if state.uploads and requests and now_s - state.at_ns / 1e9 < STALE_S
    ]
    trouble = next((report for report in reports if report.get("cause")), {})
    current = next((report for report in reports if report.get("current")), {})
    since_ns = trouble.get("since_ns", 0)
    sizes = [file.size for request in requests for file in request.files if not file.source]
    return {
        "waiting": len(requests),
        "bytes": sum(sizes),
        "oldest_s": max((now_s - r.created_at_ns / 1e9 for r in requests), default=None),
        "current": current.get("current", ""),
        "bytes_left": sum(r.get("bytes_left", 0) for r in reports) if reports else None,
        "cause": trouble.get("cause", ""),
        "error": trouble.get("sentence", ""),
        "error_since_s": now_s - since_ns / 1e9 if since_ns else None,
        "failed": read_failed(root),
    }


def lines(entry: dict[str, Any]) -> list[str]:
    """Return the outbox as lines for people; none when it is empty."""
    shown = []
    if entry["waiting"]:
        left = entry["bytes"] if entry["bytes_left"] is None else entry["bytes_left"]
        words = f"{entry['waiting']:,} waiting, {left / 1e6:,.1f} MB left to upload"
        if entry["current"]:
            words += f", now {entry['current']!r}"
        shown.append(labelled("artifacts", f"{words}; the oldest for {entry['oldest_s']:.0f} s"))
        if entry["error"]:
            shown.append(f"  not uploaded for {entry['error_since_s']:.0f} s: {entry['error']}")
        elif not entry["current"] and entry["bytes_left"] is None:
            shown.append(
                "  no agent runs: `runwire sync` uploads them, or the next trainer's agent"
            )
    for name, reason in entry["failed"].items():
        shown.append(f"  an artifact failed and is kept as outbox/{name}: {reason}")
    return shown
