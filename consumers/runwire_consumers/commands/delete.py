"""`runwire delete RUN`: hide a run for good and remove its rows."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

SUMMARY = "delete a run and everything it logged, for good"
EXAMPLE = "runwire delete a1b2c3d4 --yes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `delete`."""
    parser.add_argument("run", metavar="RUN", help="the whole run id")
    parser.add_argument("--project", help="when the id exists in several projects")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print the deleted run as JSON")


def run(args: argparse.Namespace) -> int:
    """Ask, then delete; 1 when the answer is no."""
    from runwire_consumers.clickhouse.client import connect
    from runwire_consumers.clickhouse.tombstones import delete_run
    from runwire_consumers.stack.control import writer_url
    from runwire_disk import paths

    root = paths.state_dir(args.dir)
    client = connect(writer_url(root))
    try:
        row = _find_run(client, args.run, args.project)
        if not args.yes and not _confirm(row):
            print("nothing was deleted", file=sys.stderr)
            return 1
        # Objects first: views show where content is, and must not outlive the only record of it.
        _delete_objects(root, row["project"], row["run_id"])
        delete_run(client, row["project"], row["run_id"])
    finally:
        client.close()
    if args.json:
        print(json.dumps({"project": row["project"], "run_id": row["run_id"]}))
    else:
        print(f"deleted run {row['run_id']} of {row['project']}; late records of it are ignored")
    return 0


def _find_run(client: Client, run_id: str, project: str | None) -> dict[str, Any]:
    """Return the run with exactly this id: a prefix could delete a neighbour."""
    from runwire_consumers.stack.state import StackError

    sql = "SELECT project, run_id, name, status, last_step FROM v_runs WHERE run_id = %(run_id)s"
    if project:
        sql += " AND project = %(project)s"
    parameters = {"run_id": run_id, "project": project or ""}
    rows = list(client.query(sql, parameters=parameters).named_results())
    if not rows:
        raise StackError(f"no run has the id {run_id!r}; `runwire runs` lists them")
    if len(rows) > 1:
        projects = ", ".join(sorted(row["project"] for row in rows))
        raise StackError(f"{run_id!r} exists in several projects ({projects}); give --project", 2)
    return dict(rows[0])


def _delete_objects(root: Path, project: str, run_id: str) -> None:
    """Delete artifacts and checkpoints. Raises: StackError, before anything was deleted."""
    from runwire_consumers.stack.state import StackError
    from runwire_schemas.connections import s3 as s3_settings
    from runwire_store.open import open_store
    from runwire_store.releasing import delete_objects
    from runwire_store.store import StoreError

    try:
        store = open_store(s3_settings.from_environment(os.environ), root)
        try:
            delete_objects(store, project, run_id)
        finally:
            store.close()
    except (StoreError, s3_settings.S3SettingsError) as error:
        raise StackError(
            f"the run's artifacts cannot be deleted, so nothing was: {error}"
        ) from error


def confirm(question: str) -> bool:
    """Ask for a yes. Raises: StackError when stdin is no terminal."""
    from runwire_consumers.stack.state import StackError

    if not sys.stdin.isatty():
        raise StackError("deleting needs a yes: stdin is no terminal, so give --yes", 2)
    print(f"{question} [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _confirm(row: dict[str, Any]) -> bool:
    step = "no step" if row["last_step"] is None else f"step {row['last_step']}"
    label = f"{row['run_id']} ({row['name'] or 'no name'}, {row['status']}, {step})"
    return confirm(f"Delete run {label} of project {row['project']} for good?")
