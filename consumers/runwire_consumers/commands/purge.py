"""`runwire purge`: remove the rows of deleted runs now, without waiting for the background."""

from __future__ import annotations

import argparse
import json
import sys

SUMMARY = "remove the rows of deleted runs now (the stack of `runwire up` does it by itself)"
EXAMPLE = "runwire purge --wait"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `purge`."""
    parser.add_argument("--wait", action="store_true", help="return when no row is left")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do one round, and with --wait wait for its effect."""
    from runwire_consumers import settings as worker_settings
    from runwire_consumers.housekeeping.purge import purge, spooled_runs, wait_until_purged
    from runwire_consumers.stack.access import opened_client
    from runwire_disk import paths

    root = paths.state_dir(args.dir)
    forget_s = worker_settings.from_environment().forget_s
    with opened_client(root) as client:
        report = purge(client, forget_s=forget_s, spooled=spooled_runs(root))
        rows_left = sum(sum(counts.values()) for counts in report.left.values())
        if args.wait:
            wait_until_purged(client, list(report.left), _say)
            rows_left = 0
    for table, reason in report.waiting.items():
        if reason:
            print(f"table {table}: {reason}", file=sys.stderr)
    if args.json:
        runs = [{"project": project, "run_id": run_id} for project, run_id in report.left]
        print(json.dumps({"runs": runs, "rows_left": rows_left, "forgotten": report.forgotten}))
    elif not report.left:
        print("no deleted run has rows left")
    elif args.wait:
        print(f"removed the rows of {len(report.left)} deleted runs")
    else:
        print(f"removing {rows_left} rows of {len(report.left)} deleted runs in the background")
    return 0


def _say(count: int, failures: dict[str, str]) -> None:
    print(f"{count} rows left", file=sys.stderr)
    for table, reason in failures.items():
        print(f"table {table}: {reason}", file=sys.stderr)
