"""`runwire delete RUN…`: hide runs for good at once; their rows are removed in the background."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from runwire_consumers.commands.run_choice import ChosenRun

SUMMARY = "delete runs with all they logged, their artifacts, checkpoints and archives, for good"
EXAMPLE = "runwire delete a1b2c3d4 --yes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `delete`."""
    parser.add_argument("run", metavar="RUN", nargs="+", help="the whole run id")
    parser.add_argument("--project", help="when an id exists in several projects")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--wait",
        action="store_true",
        help="return when no row is left; else the stack of `runwire up` removes them later",
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON per run")


def run(args: argparse.Namespace) -> int:
    """Ask, then delete; 1 when the answer is no."""
    from runwire_consumers.commands.run_choice import choose_run, confirm
    from runwire_consumers.stack.access import opened_client
    from runwire_disk import paths

    root = paths.state_dir(args.dir)
    with opened_client(root) as client:
        ids = dict.fromkeys(args.run)
        chosen = [choose_run(client, run_id, args.project) for run_id in ids]
        lost = [it for it in chosen if it.mark is None or _has_archive(root, it)]
        if lost and not args.yes and not confirm(_ask(client, lost)):
            print("nothing was deleted", file=sys.stderr)
            return 1
        for it in chosen:
            _delete(root, client, it)
        if args.wait:
            _wait(client, chosen)
        for it in chosen:
            print(_describe(client, it, as_json=args.json))
    return 0


def _ask(client: Client, chosen: Sequence[ChosenRun]) -> str:
    from runwire_consumers.commands.run_choice import label_run

    runs = ", ".join(label_run(client, it) for it in chosen)
    return f"Delete for good, with artifacts, checkpoints and archives: {runs}?"


def _has_archive(root: Path, chosen: ChosenRun) -> bool:
    """Whether rows of a run that is hidden are kept in the store. Raises: StackError."""
    from runwire_consumers.stack.access import opened_store
    from runwire_store.layout import archive_manifest_key

    with opened_store(root) as store:
        return store.stat(archive_manifest_key(chosen.project, chosen.run_id)) is not None


def _delete(root: Path, client: Client, chosen: ChosenRun) -> None:
    """Delete the objects and set the mark; a run deleted before may have left some of them."""
    from runwire_consumers.clickhouse.tombstones import DELETED, hide_run
    from runwire_consumers.stack.access import opened_store
    from runwire_consumers.stack.state import StackError
    from runwire_store.releasing import delete_objects

    # Objects first: views show where content is, and must not outlive the only record of it.
    try:
        with opened_store(root) as store:
            delete_objects(store, chosen.project, chosen.run_id)
    except StackError as error:
        raise StackError(
            f"the artifacts of run {chosen.run_id} cannot be deleted, so it was not: {error}"
        ) from error
    mark = chosen.mark
    if mark is None or not (mark.is_purged or mark.state == DELETED):
        hide_run(client, chosen.project, chosen.run_id)


def _wait(client: Client, chosen: Sequence[ChosenRun]) -> None:
    from runwire_consumers.housekeeping.purge import wait_until_purged

    def report(count: int, failures: dict[str, str]) -> None:
        print(f"{count} rows left", file=sys.stderr)
        for table, reason in failures.items():
            print(f"table {table}: {reason}", file=sys.stderr)

    wait_until_purged(client, [(it.project, it.run_id) for it in chosen], report)


def _describe(client: Client, chosen: ChosenRun, *, as_json: bool) -> str:
    from runwire_consumers.clickhouse.tombstones import of_runs
    from runwire_consumers.housekeeping.purge import count_rows

    names = (chosen.project, chosen.run_id)
    left = count_rows(client, of_runs([names])).get(names, {})
    if as_json:
        return json.dumps(
            {"project": chosen.project, "run_id": chosen.run_id, "rows_left": sum(left.values())}
        )
    verb = "deleted run" if chosen.mark is None else "deleted before: run"
    line = (
        f"{verb} {chosen.run_id} of {chosen.project}, with its artifacts, checkpoints and archive; "
        "late records of it are ignored. Content that no other run uses goes with the next sweep "
        "(`runwire artifact sweep`)"
    )
    if left:
        tables = ", ".join(f"{table} {count}" for table, count in left.items())
        line += (
            f"\n{sum(left.values())} rows are left ({tables}): the stack of `runwire up` removes "
            "them in the background, `runwire purge` at once"
        )
    return line
