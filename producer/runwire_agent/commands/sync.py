"""`runwire sync`: deliver spool and outbox now, or change their destination."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire_disk.settings import NodeSettings

SUMMARY = "ship everything in the spool and all artifacts now, or send them elsewhere with --to"
EXAMPLE = "RUNWIRE_KAFKA_BOOTSTRAP_SERVERS=broker:9092 runwire sync --to kafka"
TIMEOUT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sync`."""
    parser.add_argument(
        "--to",
        choices=("local", "kafka"),
        help="first change the destination of ended writers; local is for `runwire up`",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="with --to: also folders that may in part be stored at the old destination",
    )
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=TIMEOUT_S,
        metavar="S",
        help=f"give up after S seconds without progress (default: {TIMEOUT_S:g})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def run(args: argparse.Namespace) -> int:
    """Deliver; exit status 0 when nothing is left. Blocks: until then, or without progress."""
    from runwire_agent.sync.outbox import OutboxSync
    from runwire_disk.settings import NodeSettings
    from runwire_schemas.errors import MISUSE, CommandError

    settings = NodeSettings.resolve({"dir": args.dir})
    kafka = settings.kafka
    if kafka is None and args.to != "local":
        is_empty = not OutboxSync(settings).report()["waiting"]
        if args.to == "kafka" or is_empty:
            raise CommandError(
                "no brokers are set, so there is nowhere to ship to: set "
                "RUNWIRE_KAFKA_BOOTSTRAP_SERVERS. The embedded route needs no sync: `runwire up` "
                "stores the spool",
                MISUSE,
            )
    moves = _moves(args, settings)
    if args.to == "local":
        return _finish(args, moves, {}, "")
    from runwire_agent.commands.transfer_bars import TransferBars
    from runwire_agent.sync.spool import Sync

    sync = OutboxSync(settings) if kafka is None else Sync(settings)
    with TransferBars() as bars:
        try:
            problem = sync.deliver(args.timeout_s, lambda text: bars.show(text, sync.report()))
        finally:
            sync.close()
    return _finish(args, moves, sync.facts(), problem)


@dataclass(slots=True)
class _Moves:
    """Folders of the spool and artifacts that `--to` moved, and those it left."""

    moved: list[str] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def _moves(args: argparse.Namespace, settings: NodeSettings) -> _Moves:
    if args.to is None:
        return _Moves()
    from runwire_agent.sync.reroute_outbox import reroute_artifacts
    from runwire_agent.sync.reroute_spool import reroute

    target = settings.kafka if args.to == "kafka" else None
    folders = reroute(settings.root, target, force=args.force)
    artifacts = reroute_artifacts(settings, target)
    left = folders.left | {f"artifact {name}": why for name, why in artifacts.left.items()}
    return _Moves(folders.moved, artifacts.moved, left)


def _finish(args: argparse.Namespace, moves: _Moves, facts: dict[str, object], problem: str) -> int:
    ok = not problem and not moves.left
    if args.json:
        about = {
            "ok": ok,
            "moved": moves.moved,
            "moved_artifacts": moves.artifacts,
            "left": moves.left,
            "problem": problem,
        }
        print(json.dumps(about | facts))
        return 0 if ok else 1
    if args.to is not None:
        print(f"spool folders moved to {args.to}: {len(moves.moved)}")
        if moves.artifacts:
            print(f"artifacts moved there: {len(moves.artifacts)}")
    for name, sentence in moves.left.items():
        print(f"{name} was not moved: {sentence}", file=sys.stderr)
    if "records" in facts:
        print(f"{facts['records']:,} records delivered, with {facts['points']:,} points")
    if facts.get("artifacts"):
        print(f"{facts['artifacts']:,} artifacts uploaded")
    if facts.get("folders_elsewhere"):
        print(
            f"spool folders skipped because they have another destination: "
            f"{facts['folders_elsewhere']}; `--to kafka` sends them to these brokers"
        )
    if problem:
        print(f"runwire: {problem}", file=sys.stderr)
    return 0 if ok else 1
