"""An agent's state for Prometheus, as a file: node_exporter's textfile collector reads it.

A file and no port: agents come and go, several share a machine, and none should listen.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from runwire_disk.agents.state import AgentState
from runwire_disk.files import replace_bytes

__all__ = ["METRICS_SUFFIX", "text_of", "write_metrics"]

_log = logging.getLogger("runwire.agent")
METRICS_SUFFIX: Final = ".prom"
# Name without prefix, type, help, and the key of its value in `AgentState.uploads`.
_UPLOADS: Final = (
    ("artifacts_waiting", "gauge", "Artifacts in the outbox.", "waiting"),
    ("artifacts_shipped_total", "counter", "Artifacts delivered.", "shipped"),
    ("artifacts_failed_total", "counter", "Artifacts that can never be delivered.", "failed"),
    ("upload_left_bytes", "gauge", "Bytes of waiting artifacts still to move.", "bytes_left"),
    ("upload_bytes_total", "counter", "Bytes that stores or brokers acknowledged.", "bytes_done"),
    ("upload_read_bytes_total", "counter", "Bytes hashed or sent.", "bytes_read"),
)


def text_of(state: AgentState) -> str:
    """Return the state in Prometheus' text format. Units: bytes, seconds since 1970."""
    uploads = state.uploads
    rows: list[tuple[str, str, str, float]] = [
        ("state_time_seconds", "gauge", "When this was written.", state.at_ns / 1e9),
        ("delivered_total", "counter", "Records that brokers acknowledged.", state.delivered),
        ("blocked", "gauge", "1 while records wait for a cause.", bool(state.cause)),
        *((name, kind, text, uploads.get(key, 0)) for name, kind, text, key in _UPLOADS),
        ("uploads_blocked", "gauge", "1 while artifacts wait.", bool(uploads.get("cause"))),
    ]
    label = f'{{destination="{state.key}"}}'
    return "".join(_row(row, label) for row in rows)


def write_metrics(state_file: Path, state: AgentState) -> None:
    """Replace the file beside the agent's state; a full disk costs nothing but the file."""
    path = state_file.with_suffix(METRICS_SUFFIX)
    try:
        replace_bytes(path, text_of(state).encode())
    except OSError as error:
        _log.debug("metrics cannot be written: %s", error)


def _row(row: tuple[str, str, str, float], label: str) -> str:
    name, kind, text, value = row
    name = f"runwire_agent_{name}"
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n{name}{label} {float(value)!r}\n"
