"""`runwire agent`: the agent in the foreground: it watches, and ships when brokers are set."""

from __future__ import annotations

import argparse

SUMMARY = "watch trainers and ship their spool in the foreground (`init` normally starts it)"
EXAMPLE = "RUNWIRE_KAFKA_BOOTSTRAP_SERVERS=broker:9092 runwire agent --dir /scratch/telemetry"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `agent`."""
    parser.add_argument(
        "--exit-when-idle", action="store_true", help="end when no trainer lives any more"
    )


def run(args: argparse.Namespace) -> int:
    """Be the agent until a signal, or until idle. Blocks: until then."""
    from runwire_agent.__main__ import main
    from runwire_disk import paths

    arguments = ["--dir", str(paths.state_dir(args.dir))]
    if args.exit_when_idle:
        arguments.append("--exit-when-idle")
    return main(arguments)
