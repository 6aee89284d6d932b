"""`runwire tail RUN`: a run's points as they arrive."""

from __future__ import annotations

import argparse
import json
import sys
import time

SUMMARY = "follow a run: print its points as they arrive, until it ends"
EXAMPLE = "runwire tail happy-run --metric loss"
POLL_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tail`."""
    parser.add_argument("run", metavar="RUN", help="run id, its unique beginning, or the name")
    parser.add_argument("--project", help="when the name exists in several projects")
    parser.add_argument(
        "--metric", action="append", metavar="TEXT", help="only metrics containing TEXT; repeatable"
    )
    parser.add_argument(
        "--lines", type=int, default=10, metavar="N", help="start with the last N calls"
    )
    parser.add_argument("--once", action="store_true", help="print the stored calls and stop")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Poll until the run has ended and nothing is left to print."""
    from runwire_query.api.follow import Follower
    from runwire_query.api.runs import find_run, read_status
    from runwire_query.connection import connect
    from runwire_query.text.run_page import call_json, call_line

    reader = connect(args.dir)
    try:
        found = find_run(reader, args.run, args.project).ref
        follower = Follower(reader, found, args.metric or [], lines=args.lines)
        while True:
            # Before the calls: whatever was stored before the run ended is then printed below.
            has_ended = read_status(reader, found) != "running"
            calls = follower.new_calls()
            for call in calls:
                print(json.dumps(call_json(call)) if args.json else call_line(call))
            sys.stdout.flush()
            if args.once or (has_ended and not calls):
                break
            if not calls:
                time.sleep(POLL_S)
        if not args.json:
            print(f"{found.run_id} is {read_status(reader, found)}", file=sys.stderr)
    finally:
        reader.close()
    return 0
