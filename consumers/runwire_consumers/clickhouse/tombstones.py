"""Deleted runs: the tombstone that views and the sink respect, and the removal of their rows."""

from __future__ import annotations

from collections.abc import Sequence

from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse.client import CALL_ERRORS, explain

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


def delete_run(client: Client, project: str, run_id: str) -> bool:
    """Hide a run for good and delete its rows; return whether it had any.

    The tombstone comes first, so a crash in between leaves a hidden run: run it again.
    Raises: Retryable, Fatal.
    Blocks: until the rows are masked; the space is free after later merges.
    """
    run = {"project": project, "run_id": run_id}
    where = "project = %(project)s AND run_id = %(run_id)s"
    try:
        events = client.command(f"SELECT count() FROM run_events WHERE {where}", parameters=run)
        client.command(
            "INSERT INTO deleted_runs (project, run_id, deleted_at) "
            "SELECT %(project)s, %(run_id)s, now64(3)",
            parameters=run,
        )
        for table in RUN_TABLES:
            client.command(f"DELETE FROM {table} WHERE {where}", parameters=run)
    except CALL_ERRORS as error:
        raise explain(error, str(getattr(client, "url", ""))) from error
    return bool(events)


def deleted_runs(client: Client) -> set[tuple[str, str]]:
    """Return (project, run_id) of every tombstone."""
    rows: Sequence[Sequence[str]] = client.query(
        "SELECT DISTINCT project, run_id FROM deleted_runs"
    ).result_rows
    return {(project, run_id) for project, run_id in rows}
