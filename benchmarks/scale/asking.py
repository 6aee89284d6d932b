"""Cost of a question: CPU, rows and memory as the engine's query log says them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Final

TIMES: Final = 3
# Views whose purpose-made table is the base table, read by its key without FINAL: a second copy of
# all points would double the filling.
_BASE: Final = {"v_metrics": "metrics", "v_series": "metrics", "v_logs": "logs"}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one question cost: the best of several times by CPU."""

    cpu_ms: float
    rows: int
    memory_bytes: int


def ask(client: Any, sql: str) -> Cost:
    """Return what a question costs."""
    found = []
    for _ in range(TIMES):
        query_id = str(uuid.uuid4())
        client.raw_query(sql, settings={"query_id": query_id}, fmt="Native")
        found.append(_logged(client, query_id))
    return min(found, key=lambda cost: cost.cpu_ms)


def _logged(client: Any, query_id: str) -> Cost:
    """Return what the log says of a query, which it may write after the answer was sent."""
    while True:
        client.command("SYSTEM FLUSH LOGS")
        rows = client.query(
            "SELECT ProfileEvents['OSCPUVirtualTimeMicroseconds'] / 1000, read_rows, memory_usage "
            "FROM system.query_log WHERE type = 'QueryFinish' "
            f"AND event_date >= yesterday() AND query_id = '{query_id}'"
        ).result_rows
        if rows:
            return Cost(*rows[0])


def purpose_made(client: Any, views: set[str]) -> dict[str, str]:
    """Make a table for each view that holds its rows by (project, run_id); return the names."""
    tables = dict(_BASE)
    for view in sorted(views - set(_BASE)):
        tables[view] = f"flat_{view}"
        client.command(f"DROP TABLE IF EXISTS flat_{view} SYNC")
        client.command(
            f"CREATE TABLE flat_{view} ENGINE = MergeTree ORDER BY (project, run_id) "
            f"AS SELECT * FROM {view}",
            settings={"max_execution_time": 0},
        )
    return tables
