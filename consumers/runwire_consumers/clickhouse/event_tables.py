"""Which table holds the events of a kind, and what builds its block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runwire_consumers.clickhouse.object_rows import artifact_rows, checkpoint_rows
from runwire_consumers.clickhouse.rows import heartbeat_rows, log_rows, param_rows, run_rows

EVENT_TABLES: Mapping[str, tuple[str, Callable[[Any, int], bytes]]] = {
    "run": ("run_events", run_rows),
    "param": ("params", param_rows),
    "heartbeat": ("heartbeats", heartbeat_rows),
    "log": ("logs", log_rows),
    "checkpoint": ("checkpoints", checkpoint_rows),
    "artifact": ("artifacts", artifact_rows),
}
"""Table and block builder of each event kind."""
