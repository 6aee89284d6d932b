"""`runwire status`: running parts, and points and artifacts that wait on this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

SUMMARY = "show which parts are alive and what is pending per run"
EXAMPLE = "runwire status --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `status`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the sections of every installed package; a stack that is down is no error."""
    from runwire_disk import paths
    from runwire_disk.survey import STATUS_GROUP, collect_sections, labelled

    root = paths.state_dir(args.dir)
    sections = collect_sections(STATUS_GROUP, root)
    if not args.json:
        print(labelled("data folder", str(root)))
        for line in (line for section in sections for line in section.lines):
            print(line)
        return 0
    facts: dict[str, Any] = {"dir": str(root)}
    for section in sections:
        facts |= section.facts
    facts["not_installed"] = {s.name: s.missing for s in sections if s.missing}
    print(json.dumps(facts))
    return 0
