"""`runwire status`: which parts live, and what waits in the spool."""

from __future__ import annotations

import argparse
import json

SUMMARY = "show which parts are alive and what is pending per run"
EXAMPLE = "runwire status --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `status`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print it; a stack that is down is an answer, not an error."""
    from runwire_consumers.stack.survey import as_text, survey
    from runwire_disk import paths

    found = survey(paths.state_dir(args.dir))
    print(json.dumps(found) if args.json else as_text(found))
    return 0
