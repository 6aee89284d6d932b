"""`runwire migrate`: tables and views of a ClickHouse server."""

from __future__ import annotations

import argparse
import json
import sys

SUMMARY = "create or update the tables and views of a ClickHouse server"
EXAMPLE = "runwire migrate --url http://admin:secret@clickhouse:8123/runwire"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `migrate`."""
    parser.add_argument(
        "--url", help="default: $RUNWIRE_CLICKHOUSE_URL, else the embedded engine of --dir"
    )
    parser.add_argument("--cluster", help="make replicated tables ON CLUSTER of this name")
    parser.add_argument("--print", action="store_true", help="print the SQL and change nothing")
    parser.add_argument("--json", action="store_true", help="print the applied names as JSON")


def run(args: argparse.Namespace) -> int:
    """Apply what is missing."""
    from runwire_consumers.clickhouse import migrate
    from runwire_consumers.clickhouse.client import connect, shown
    from runwire_consumers.stack.control import writer_url
    from runwire_schemas import paths

    if args.print:
        for migration in migrate.migrations():
            print(f"-- {migration.name}\n{migration.text.strip()}\n")
        return 0
    url = args.url or writer_url(paths.state_dir(args.dir))
    client = connect(url, create=True)
    try:
        applied = migrate.apply(client, cluster=args.cluster)
    finally:
        client.close()
    if args.json:
        print(json.dumps({"url": shown(url), "applied": applied}))
    elif applied:
        print("\n".join(f"applied {name}" for name in applied))
    else:
        print(f"{shown(url)} is up to date", file=sys.stderr)
    return 0
