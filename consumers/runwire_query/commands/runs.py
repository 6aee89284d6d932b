"""`runwire runs`: the list of runs, newest first."""

from __future__ import annotations

import argparse
import json

SUMMARY = "list runs, newest first"
EXAMPLE = "runwire runs --project demo --status running"
STATUSES = ("running", "finished", "failed", "interrupted", "preempted", "killed", "lost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `runs`."""
    parser.add_argument("--project", help="only this project")
    parser.add_argument("--status", choices=STATUSES, help="only runs in this state")
    parser.add_argument(
        "--limit", type=_positive, default=50, metavar="N", help="at most N runs (default 50)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    from runwire_query.api.runs import list_runs
    from runwire_query.connection import connect
    from runwire_query.text.run_page import as_table, json_value

    reader = connect(args.dir)
    try:
        runs = list_runs(reader, project=args.project, status=args.status, limit=args.limit)
    finally:
        reader.close()
    if args.json:
        print(json.dumps([json_value(run) for run in runs]))
    elif not runs:
        filtered = " that match" if args.project or args.status else ""
        print(f"no runs{filtered} yet: a script that calls runwire.init() makes one")
    else:
        print(as_table(runs))
    return 0
