"""`runwire runs`: what ran, newest first."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

SUMMARY = "list runs, newest first"
EXAMPLE = "runwire runs --project demo --status running"
STATUSES = ("running", "finished", "failed", "interrupted", "preempted", "killed", "lost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `runs`."""
    parser.add_argument("--project", help="only this project")
    parser.add_argument("--status", choices=STATUSES, help="only runs in this state")
    parser.add_argument("--limit", type=_positive, default=50, help="at most so many (default 50)")
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    from runwire_query.connection import connect
    from runwire_query.runs import list_runs

    reader = connect(args.dir)
    try:
        found = list_runs(reader, project=args.project, status=args.status, limit=args.limit)
    finally:
        reader.close()
    if args.json:
        print(json.dumps(found, default=str))
    elif not found:
        filtered = " that match" if args.project or args.status else ""
        print(f"no runs{filtered} yet: a script that calls runwire.init() makes one")
    else:
        _print(found)
    return 0


def _print(found: list[dict[str, Any]]) -> None:
    from runwire_query.text.table import format_table, terminal_width
    from runwire_query.text.words import age

    now = datetime.now(UTC)
    header = ("run", "name", "project", "status", "step", "started")
    rows = [
        (
            row["run_id"],
            row["name"] or "-",
            row["project"],
            row["status"],
            "-" if row["last_step"] is None else str(row["last_step"]),
            f"{age(row['started_at'], now)} ago",
        )
        for row in found
    ]
    right = (False, False, False, False, True, True)
    print(format_table(header, rows, right=right, width=terminal_width()))
