"""`runwire down`: stop the embedded stack."""

from __future__ import annotations

import argparse
import json

SUMMARY = "stop the embedded stack; nothing logged is lost"
EXAMPLE = "runwire down"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `down`."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Stop it and report."""
    from runwire_consumers.stack import agent, control
    from runwire_disk import paths

    root = paths.state_dir(args.dir)
    stopped = control.stop(root)
    trainers = agent.live_trainers(root)
    if args.json:
        print(json.dumps({"dir": str(root), "stopped": stopped, "live_trainers": trainers}))
        return 0
    print(f"stopped the stack of {root}" if stopped else f"nothing runs for {root}")
    if trainers:
        print(
            f"{len(trainers)} trainer process(es) still log into the spool; "
            "the next `runwire up` stores their points."
        )
    return 0
