"""Deleted runs: the tombstone that views and the sink respect, and the removal of their rows."""

from __future__ import annotations

from collections.abc import Sequence

from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse.client import CALL_ERRORS, explain
from runwire_schemas import identity

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
    "checkpoints",
    "dead_letters",
)


def delete_run(client: Client, project: str, run_id: str) -> bool:
    """Hide a run for good and delete its rows; return whether it had any.

    The tombstone comes first, so a crash in between leaves a hidden run: run it again.
    Raises: Retryable, Fatal.
    Blocks: until the rows are masked; the space is free after later merges.
    """
    key = identity.run_key(project, run_id)
    where = f"run_key = toUInt128('{int.from_bytes(key, 'little')}')"
    try:
        events = client.command(f"SELECT count() FROM run_events WHERE {where}")
        client.command(
            "INSERT INTO deleted_runs (project, run_key, run_id, deleted_at) SELECT "
            f"%(project)s, toUInt128('{int.from_bytes(key, 'little')}'), %(run_id)s, now64(3)",
            parameters={"project": project, "run_id": run_id},
        )
        for table in RUN_TABLES:
            client.command(f"DELETE FROM {table} WHERE {where}")
    except CALL_ERRORS as error:
        raise explain(error, str(getattr(client, "url", ""))) from error
    return bool(events)


def deleted_runs(client: Client) -> set[tuple[str, str]]:
    """Return (project, run_id) of every tombstone."""
    rows: Sequence[Sequence[str]] = client.query(
        "SELECT DISTINCT project, run_id FROM deleted_runs"
    ).result_rows
    return {(project, run_id) for project, run_id in rows}
