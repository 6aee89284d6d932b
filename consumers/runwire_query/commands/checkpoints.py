"""`runwire checkpoints RUN`: what a run can be resumed from."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    """Do it; --verify exits with 1 when something is missing or damaged."""
    from runwire_query import checkpoints
    from runwire_query.storage import opened, tell_damaged

    with opened(args.dir) as catalog:
        project, run_id = checkpoints.find_run(catalog, args.dir, args.run, args.project)
        if args.download is not None:
            found = catalog.checkpoint(project, run_id, args.download)
            return _download(args, catalog, found, run_id)
        views = catalog.checkpoints(project, run_id)
        known = list(views)
        if args.step is not None:
            known = [catalog.checkpoint(project, run_id, args.step)]
        tell_damaged(views.damaged)
        if args.verify:
            return _verify(args, catalog, known)
        rows = checkpoints.listed(catalog, args.dir, project, run_id)
    if args.step is not None:
        rows = [row for row in rows if row["manifests"] == _keys(known[0])]
    if args.json:
        print(json.dumps(rows))
    elif rows:
        print(checkpoints.as_table(rows))
    else:
        print(
            f"run {run_id!r} of {project!r} has no checkpoints: run.save_checkpoint(...) makes one"
        )
    return 0


def _keys(view: CheckpointView) -> list[str]:
    return [view.manifests[rank].key for rank in sorted(view.manifests)]


def _verify(args: argparse.Namespace, catalog: Catalog, known: list[CheckpointView]) -> int:
    from runwire_query.text.transfer import transfer_bar
    from runwire_store.download import verify

    answers = []
    for view in known:
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
            _tell(view, problems)
    if args.json:
        print(json.dumps(answers))
    # Parts may still be on their way; what is there and wrong is damage.
    return 1 if any(answer["problems"] for answer in answers) else 0


def _tell(view: CheckpointView, problems: list[dict[str, object]]) -> None:
    from runwire_query.text.words import printable

    if problems:
        print(f"step {view.step}: {len(problems)} files damaged or missing")
        for problem in problems:
            told = f"  rank {problem['rank']}, {problem['path']}: {problem['reason']}"
            print(printable(told))
    elif view.is_complete:
        print(f"step {view.step}: all right")
    else:
        ranks = ", ".join(map(str, view.missing_ranks))
        print(f"step {view.step}: the parts of rank {ranks} are missing, the others are right")


def _download(args: argparse.Namespace, catalog: Catalog, view: CheckpointView, run_id: str) -> int:
    from runwire_query.commands.artifact import folder_name
    from runwire_query.text.terminal import path_line
    from runwire_query.text.transfer import transfer_bar
    from runwire_store.download import download

    into = args.output or Path(folder_name(f"{run_id}-step-{view.step}"))
    paths = []
    with transfer_bar(f"step {view.step}", view.size) as progress:
        for rank, manifest in sorted(view.manifests.items()):
            # Parts of ranks may have files of one name.
            folder = into / f"rank-{rank}" if view.kind == "sharded" else into
            paths += download(catalog.store, manifest, folder, progress=progress)
    if args.json:
        files = [str(path) for path in paths]
        print(json.dumps({"step": view.step, "bytes": view.size, "files": files}))
    else:
        print("\n".join(map(path_line, paths)))
        print(f"step {view.step}: {len(paths)} files, checksums right", file=sys.stderr)
    return 0
