"""`runwire unarchive RUN…`: bring the rows of archived runs back from the object store."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire_consumers.housekeeping.archive_manifest import ArchiveManifest

SUMMARY = "bring the rows of archived runs back from the object store"
EXAMPLE = "runwire unarchive a1b2c3d4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `unarchive`."""
    parser.add_argument("run", metavar="RUN", nargs="+", help="the whole run id")
    parser.add_argument("--project", help="when an id was archived in several projects")
    parser.add_argument("--json", action="store_true", help="print a line of JSON per run")


def run(args: argparse.Namespace) -> int:
    """Bring each run back; the archives stay."""
    from runwire_consumers.housekeeping.archive import unarchive_run
    from runwire_consumers.housekeeping.archive_manifest import list_archives
    from runwire_consumers.stack.access import opened_client, opened_store
    from runwire_disk import paths

    root = paths.state_dir(args.dir)
    with opened_store(root) as store, opened_client(root) as client:
        archives = list_archives(store)
        chosen = [_choose(archives, run_id, args.project) for run_id in dict.fromkeys(args.run)]
        for archive in chosen:
            names = (archive.project, archive.run_id)
            unarchive_run(client, store, *names, scratch=root, report=_report)
            if args.json:
                row = {"project": names[0], "run_id": names[1], "rows": archive.rows}
                print(json.dumps(row))
            else:
                print(f"run {names[1]} of {names[0]} is back, with {archive.rows} rows")
    return 0


def _choose(archives: list[ArchiveManifest], run_id: str, project: str | None) -> ArchiveManifest:
    from runwire_consumers.stack.state import StackError

    found = [it for it in archives if it.run_id == run_id and project in (None, it.project)]
    if not found:
        raise StackError(f"no archive of a run {run_id!r}; `runwire archive` lists them")
    if len(found) > 1:
        projects = ", ".join(sorted(it.project for it in found))
        raise StackError(
            f"{run_id!r} was archived in several projects ({projects}); give --project", 2
        )
    return found[0]


def _report(count: int, failures: dict[str, str]) -> None:
    print(f"waiting until {count} rows of an earlier deletion are gone", file=sys.stderr)
    for table, reason in failures.items():
        print(f"table {table}: {reason}", file=sys.stderr)
