"""`runwire checkpoints RUN`: list, verify or download the checkpoints of a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire_query.api.checkpoints import CheckpointRow
    from runwire_query.api.runs import RunRef
    from runwire_store.catalog import Catalog
    from runwire_store.checkpoints import CheckpointView

SUMMARY = "list a run's checkpoints, mark the best, verify or download them"
EXAMPLE = "runwire checkpoints happy-run --download best -o best"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `checkpoints`."""
    parser.add_argument("run", metavar="RUN", help="run id; with ClickHouse also name or beginning")
    parser.add_argument("--project", help="project of the run ($RUNWIRE_PROJECT)")
    parser.add_argument(
        "--step", type=_which, metavar="WHICH", help="only this one: latest, best or a step"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read all content and compare the checksums"
    )
    parser.add_argument(
        "--download", type=_which, metavar="WHICH", help="fetch one: latest, best or a step"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="with --download (default: RUN-step-N)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _which(text: str) -> str | int:
    if text in ("latest", "best"):
        return text
    if text.removeprefix("step-").isdecimal():
        return int(text.removeprefix("step-"))
    raise argparse.ArgumentTypeError(f"{text!r}: give latest, best or a step")


def run(args: argparse.Namespace) -> int:
    """List, verify or download; --verify exits with 1 when content is missing or damaged."""
    from runwire_query.api.checkpoints import list_checkpoints, locate_run, manifest_keys
    from runwire_query.storage import choose_project, open_catalog
    from runwire_query.text.terminal import damage_lines

    with open_catalog(args.dir) as catalog:
        found = locate_run(catalog, args.dir, args.run, choose_project(args.project))
        if args.download is not None:
            view = catalog.checkpoint(found.project, found.run_id, args.download)
            return _download(args, catalog, view, found.run_id)
        listing = catalog.checkpoints(found.project, found.run_id)
        views = list(listing)
        if args.step is not None:
            views = [catalog.checkpoint(found.project, found.run_id, args.step)]
        for line in damage_lines(listing.damaged):
            print(line, file=sys.stderr)
        if args.verify:
            return _verify(args, catalog, views)
        checkpoints = list_checkpoints(catalog, args.dir, found)
    if checkpoints.missing_because:
        lost = "without unfinished checkpoints and the numbers of attempts"
        print(f"{lost}: {checkpoints.missing_because}", file=sys.stderr)
    rows = checkpoints.rows
    if args.step is not None:
        rows = tuple(row for row in rows if row.manifests == manifest_keys(views[0]))
    _print(args, rows, found)
    return 0


def _print(args: argparse.Namespace, rows: Sequence[CheckpointRow], found: RunRef) -> None:
    from runwire_query.text.checkpoint_table import as_table, row_json

    if args.json:
        print(json.dumps([row_json(row) for row in rows]))
    elif rows:
        print(as_table(rows))
    else:
        print(
            f"run {found.run_id!r} of {found.project!r} has no checkpoints: "
            "run.save_checkpoint(...) makes one"
        )


def _verify(args: argparse.Namespace, catalog: Catalog, views: list[CheckpointView]) -> int:
    from runwire_query.text.terminal import transfer_bar
    from runwire_store.download import verify

    answers = []
    for view in views:
        with transfer_bar(f"step {view.step}", view.size) as progress:
            problems: list[dict[str, object]] = [
                {"rank": rank, "path": problem.path, "reason": problem.reason}
                for rank, manifest in sorted(view.manifests.items())
                for problem in verify(catalog.store, manifest, progress=progress)
            ]
        ok = view.is_complete and not problems
        missing = list(view.missing_ranks)
        answers.append(
            {"step": view.step, "ok": ok, "missing_ranks": missing, "problems": problems}
        )
        if not args.json:
            _report(view, problems)
    if args.json:
        print(json.dumps(answers))
    # A missing part may still arrive; a wrong one is damage.
    return 1 if any(answer["problems"] for answer in answers) else 0


def _report(view: CheckpointView, problems: list[dict[str, object]]) -> None:
    from runwire_query.errors import printable

    if problems:
        print(f"step {view.step}: {len(problems)} files damaged or missing")
        for problem in problems:
            line = f"  rank {problem['rank']}, {problem['path']}: {problem['reason']}"
            print(printable(line))
    elif view.is_complete:
        print(f"step {view.step}: all right")
    else:
        ranks = ", ".join(map(str, view.missing_ranks))
        print(f"step {view.step}: the parts of rank {ranks} are missing, the others are right")


def _download(args: argparse.Namespace, catalog: Catalog, view: CheckpointView, run_id: str) -> int:
    from runwire_query.commands.artifact import folder_name
    from runwire_query.text.terminal import path_line, transfer_bar
    from runwire_store.download import download

    into = args.output or Path(folder_name(f"{run_id}-step-{view.step}"))
    paths = []
    with transfer_bar(f"step {view.step}", view.size) as progress:
        for rank, manifest in sorted(view.manifests.items()):
            # Parts of different ranks may have files of the same name.
            folder = into / f"rank-{rank}" if view.kind == "sharded" else into
            paths += download(catalog.store, manifest, folder, progress=progress)
    if args.json:
        files = [str(path) for path in paths]
        print(json.dumps({"step": view.step, "bytes": view.size, "files": files}))
    else:
        print("\n".join(map(path_line, paths)))
        print(f"step {view.step}: {len(paths)} files, checksums right", file=sys.stderr)
    return 0
