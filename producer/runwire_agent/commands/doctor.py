"""`runwire doctor`: checks of every installed part, with advice for a user."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

SUMMARY = "check every part of the installation and say what to do"
EXAMPLE = "runwire doctor --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `doctor`."""
    parser.add_argument("--json", action="store_true", help="print a JSON array of checks")


def run(args: argparse.Namespace) -> int:
    """Print one line per check; 1 when one fails."""
    from runwire_disk import paths
    from runwire_disk.survey import CHECK_GROUP, FAIL, collect_sections

    sections = collect_sections(CHECK_GROUP, paths.state_dir(args.dir))
    findings = [finding for section in sections for finding in section.findings]
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            advice = f"\n       -> {finding.advice}" if finding.advice else ""
            print(f"{finding.level:<5} {finding.check}: {finding.found}{advice}")
    return 1 if any(finding.level == FAIL for finding in findings) else 0
