"""`runwire tail RUN`: a run's points as they arrive."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

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
    parser.add_argument("--lines", type=int, default=10, help="first show the last so many calls")
    parser.add_argument("--once", action="store_true", help="print what is there and stop")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Poll until the run has ended and nothing is left to print."""
    from runwire_query import runs
    from runwire_query.connection import connect
    from runwire_query.follow import Follower

    reader = connect(args.dir)
    try:
        found = runs.find_run(reader, args.run, args.project)
        follower = Follower(reader, found, args.metric or [], lines=args.lines)
        while True:
            # Asked first: what was stored before the end was known is then printed below.
            ended = runs.status(reader, found) != "running"
            calls = follower.new_calls()
            for call in calls:
                _print(call, as_json=args.json)
            sys.stdout.flush()
            if args.once or (ended and not calls):
                break
            if not calls:
                time.sleep(POLL_S)
        if not args.json:
            print(_last_words(found["run_id"], runs.status(reader, found)), file=sys.stderr)
    finally:
        reader.close()
    return 0


def _last_words(run_id: str, status: str) -> str:
    return f"{run_id} is {status}"


def _print(call: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(call, default=str))
        return
    from runwire_query.text.words import as_utc, number

    values = "  ".join(f"{name} {number(value)}" for name, value in call["values"].items())
    rank = f" rank {call['rank']}" if call["rank"] else ""
    print(f"{as_utc(call['at']):%H:%M:%S}{rank}  step {call['step']}  {values}")
