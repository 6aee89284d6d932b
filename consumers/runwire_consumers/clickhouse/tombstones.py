"""Tombstones: marks of deleted runs, which views and workers respect.

A run is hidden by its row in `deleted_runs` from the moment of the request. When none of its rows
is left, the mark moves to `purged_runs`: views have nothing to hide then, and workers still drop
what arrives late. `runwire_consumers.housekeeping` removes the rows and moves the marks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from clickhouse_connect.driver.binding import format_str
from clickhouse_connect.driver.client import Client

# All tables with rows of a run; the tables that views read first come first.
RUN_TABLES = (
    "run_events",
    "attempts",
    "params",
    "metrics",
    "metric_rollup",
    "batches",
    "writer_progress",
    "untidy_writers",
    "heartbeats",
    "heartbeat_last",
    "logs",
    "artifacts",
    "artifact_heads",
    "checkpoints",
    "dead_letters",
)

# States of a mark: the rows are to go; they are to go and the object store has them; an archive is
# being brought back, so rows stay and the run is hidden until all of them are there.
DELETED: Final = "deleted"
ARCHIVED: Final = "archived"
RESTORING: Final = "restoring"

# Statements that outlive their sender evaluate this when they run, not when they are sent: a run
# that is restored meanwhile keeps its rows.
REMOVABLE: Final = (
    "(project, run_id) IN (SELECT project, run_id FROM deleted_runs GROUP BY project, run_id "
    f"HAVING argMax(state, deleted_at) != '{RESTORING}')"
)

# For statements that name many runs, once per table: a server takes 256 KiB otherwise.
LONG_STATEMENT: Final = {"max_query_size": 256 * 1024**2}

# A run's names: (project, run id).
RunNames = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The mark of one run; `is_purged` when none of its rows is left."""

    project: str
    run_id: str
    state: str
    deleted_at: datetime
    is_purged: bool = False


def hide_run(client: Client, project: str, run_id: str, state: str = DELETED) -> Tombstone:
    """Mark a run: views hide it at once, workers drop its records within seconds.

    Raises: an error of CALL_ERRORS.
    """
    client.command(
        "INSERT INTO deleted_runs (project, run_id, deleted_at, state) "
        f"SELECT {literal(project)}, {literal(run_id)}, "
        # Later than any mark before it, whatever the clock does: the newest state counts.
        "greatest(now64(3), addMilliseconds("
        f"(SELECT max(deleted_at) FROM deleted_runs WHERE {of_run(project, run_id)}), 1)), "
        f"{literal(state)}"
    )
    return next(mark for mark in find_tombstones(client, run_id, project) if not mark.is_purged)


def find_tombstones(client: Client, run_id: str, project: str | None = None) -> list[Tombstone]:
    """Return the marks of the runs with exactly this id, at most one of each project."""
    where = f"run_id = {literal(run_id)}"
    if project is not None:
        where += f" AND project = {literal(project)}"
    found: dict[str, Tombstone] = {}
    purged = client.query(
        f"SELECT project, run_id, max(purged_at) FROM purged_runs WHERE {where} "
        "GROUP BY project, run_id"
    ).result_rows
    for row in purged:
        found[row[0]] = Tombstone(row[0], row[1], DELETED, row[2], is_purged=True)
    for mark in _read_marks(client, where):
        found[mark.project] = mark
    return [found[name] for name in sorted(found)]


def deleted_runs(client: Client) -> set[RunNames]:
    """Return the runs whose records workers drop: hidden ones and purged ones."""
    rows = client.query(
        "SELECT project, run_id FROM deleted_runs UNION DISTINCT "
        "SELECT project, run_id FROM purged_runs"
    ).result_rows
    return {(str(project), str(run_id)) for project, run_id in rows}


def of_run(project: str, run_id: str) -> str:
    """Return the condition that selects the rows of a run, in any table."""
    return f"project = {literal(project)} AND run_id = {literal(run_id)}"


def of_runs(runs: Iterable[RunNames]) -> str:
    """Return the condition that selects the rows of several runs, in any table."""
    names = ", ".join(f"({literal(project)}, {literal(run_id)})" for project, run_id in runs)
    return f"(project, run_id) IN ({names})" if names else "0"


def remove_rows(client: Client, table: str, where: str) -> None:
    """Send a deletion that the server carries out by itself, without waiting for merges.

    Rows that are stored later are not touched. Raises: an error of CALL_ERRORS.
    """
    client.command(
        f"DELETE FROM {table} WHERE {where}",
        settings={
            **LONG_STATEMENT,
            "lightweight_deletes_sync": 0,
            # Replicas evaluate a condition on `deleted_runs` each for itself.
            "allow_nondeterministic_mutations": 1,
        },
    )


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return str(format_str(text))


def _read_marks(client: Client, where: str) -> list[Tombstone]:
    rows = client.query(
        "SELECT project, run_id, argMax(state, deleted_at), max(deleted_at) FROM deleted_runs "
        f"WHERE {where} GROUP BY project, run_id ORDER BY project, run_id"
    ).result_rows
    return [Tombstone(*row) for row in rows]
