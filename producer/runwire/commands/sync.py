"""`runwire sync`: deliver what lies in the spool now, or change where it goes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire.shipping.reroute import Rerouting

SUMMARY = "ship everything in the spool to Kafka now, or send it elsewhere with --to"
EXAMPLE = "RUNWIRE_KAFKA_BOOTSTRAP_SERVERS=broker:9092 runwire sync --to kafka"
TIMEOUT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sync`."""
    parser.add_argument(
        "--to",
        choices=("local", "kafka"),
        help="first send what ended writers left there: local is for `runwire up`",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="with --to: also what may in part be stored at its old destination",
    )
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=TIMEOUT_S,
        metavar="S",
        help=f"give up after so long without progress (default: {TIMEOUT_S:g})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def run(args: argparse.Namespace) -> int:
    """Do it; exit status 0 when everything is delivered. Blocks: until then, or no progress."""
    from runwire.cli import MISUSE, CommandError
    from runwire.settings import Settings

    settings = Settings.resolve({"dir": args.dir})
    kafka = settings.kafka
    if kafka is None and args.to != "local":
        raise CommandError(
            "no brokers are set, so there is nowhere to ship to: set "
            "RUNWIRE_KAFKA_BOOTSTRAP_SERVERS. The embedded route needs no sync, `runwire up` "
            "stores what lies in the spool",
            MISUSE,
        )
    from runwire.shipping.reroute import Rerouting, reroute

    rerouting = Rerouting()
    if args.to is not None:
        target = kafka if args.to == "kafka" else None
        rerouting = reroute(settings.root, target, force=args.force)
    if args.to == "local" or kafka is None:
        return _finish(args, rerouting, {}, "")
    from runwire.shipping.sync import Sync

    sync = Sync(settings, kafka)
    try:
        problem = sync.deliver(args.timeout_s, _say)
    finally:
        sync.close()
    return _finish(args, rerouting, sync.facts(), problem)


_last_said_s = 0.0


def _say(text: str) -> None:
    """One line that renews itself on a terminal; now and then a line elsewhere."""
    global _last_said_s
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
    elif time.monotonic() - _last_said_s >= 5.0:
        _last_said_s = time.monotonic()
        print(text, file=sys.stderr)


def _finish(
    args: argparse.Namespace, rerouting: Rerouting, facts: dict[str, object], problem: str
) -> int:
    ok = not problem and not rerouting.left
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    if args.json:
        about = {"ok": ok, "moved": rerouting.moved, "left": rerouting.left, "problem": problem}
        print(json.dumps(about | facts))
        return 0 if ok else 1
    if args.to is not None:
        print(f"spool folders that now go to {args.to}: {len(rerouting.moved)}")
    for name, sentence in rerouting.left.items():
        print(f"{name} stays as it is: {sentence}", file=sys.stderr)
    if facts:
        print(f"{facts['records']:,} records delivered, with {facts['points']:,} points")
        if facts["folders_elsewhere"]:
            print(
                f"spool folders left because they go elsewhere: {facts['folders_elsewhere']}; "
                "`--to kafka` sends them to these brokers"
            )
    if problem:
        print(f"runwire: {problem}", file=sys.stderr)
    return 0 if ok else 1
