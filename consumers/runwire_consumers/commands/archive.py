"""`runwire archive RUN…`: keep the rows of runs as Parquet in the object store."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from runwire_consumers.housekeeping.archive_manifest import ArchiveManifest
    from runwire_store.store import ObjectStore

SUMMARY = "keep the rows of runs as Parquet in the object store, and delete them here if told to"
EXAMPLE = "runwire archive a1b2c3d4 --delete-rows"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `archive`."""
    parser.add_argument(
        "run", metavar="RUN", nargs="*", help="the whole run id; none: list archives"
    )
    parser.add_argument("--project", help="when an id exists in several projects")
    parser.add_argument(
        "--delete-rows",
        action="store_true",
        help="then hide the run and remove its rows; `runwire unarchive` brings them back",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="also a run that still runs, has points on their way, or fewer rows than its archive",
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON per archive")


def run(args: argparse.Namespace) -> int:
    """Archive each run, or list the archives."""
    from runwire_consumers.stack.access import opened_client, opened_store
    from runwire_disk import paths

    root = paths.state_dir(args.dir)
    with opened_store(root) as store:
        if not args.run:
            return _list(store, as_json=args.json)
        with opened_client(root) as client:
            for run_id in dict.fromkeys(args.run):
                manifest = _archive(args, client, store, run_id)
                print(_describe(manifest, as_json=args.json))
    return 0


def _archive(
    args: argparse.Namespace, client: Client, store: ObjectStore, run_id: str
) -> ArchiveManifest:
    from runwire_consumers.commands.run_choice import choose_run
    from runwire_consumers.housekeeping.archive import archive_run, hide_archived
    from runwire_consumers.housekeeping.archive_manifest import read_archive
    from runwire_consumers.housekeeping.purge import send_deletions
    from runwire_consumers.stack.state import StackError
    from runwire_disk import paths

    chosen = choose_run(client, run_id, args.project)
    project = chosen.project
    if chosen.mark is not None:
        known = read_archive(store, project, run_id)
        if known is None:
            raise StackError(f"run {run_id} of {project} was deleted, so it cannot be archived")
        return known
    if not args.force:
        _check_complete(client, project, run_id)
    scratch = paths.state_dir(args.dir)
    manifest = archive_run(client, store, project, run_id, scratch=scratch, may_shrink=args.force)
    if args.delete_rows:
        hide_archived(client, store, project, run_id)
        send_deletions(client)
    return manifest


def _check_complete(client: Client, project: str, run_id: str) -> None:
    """Raises: StackError for a run whose records may still come."""
    from runwire_consumers.clickhouse.tombstones import of_run
    from runwire_consumers.stack.state import StackError

    where = of_run(project, run_id)
    status = client.command(f"SELECT any(status) FROM v_runs WHERE {where}")
    pending = int(str(client.command(f"SELECT sum(pending) FROM v_completeness WHERE {where}")))
    if status == "running" or pending:
        what = "still runs" if status == "running" else f"has {pending} points on their way"
        raise StackError(
            f"run {run_id} of {project} {what}, and its archive would lack the rest: wait, or give "
            "--force"
        )


def _list(store: ObjectStore, *, as_json: bool) -> int:
    from runwire_consumers.housekeeping.archive_manifest import list_archives

    manifests = list_archives(store)
    for manifest in manifests:
        print(_describe(manifest, as_json=as_json))
    if not manifests and not as_json:
        print(f"no archives in {store.uri}: `runwire archive RUN` makes one")
    return 0


def _describe(manifest: ArchiveManifest, *, as_json: bool) -> str:
    if as_json:
        fields = {
            "project": manifest.project,
            "run_id": manifest.run_id,
            "archived_at_ms": manifest.archived_at_ms,
            "rows": manifest.rows,
            "files": len(manifest.files),
            "bytes": manifest.size,
        }
        return json.dumps(fields)
    return (
        f"archive of run {manifest.run_id} of {manifest.project}: {manifest.rows} rows in "
        f"{len(manifest.files)} files, {manifest.size} bytes"
    )
