"""`runwire artifact`: list, show, fetch and verify artifacts; delete unused content."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire_store.catalog import Catalog, Version

SUMMARY = "artifacts: ls, show (lineage), get, verify (checksums), sweep (delete unused content)"
EXAMPLE = "runwire artifact get my-model:best -o model"
ACTIONS = ("ls", "show", "get", "verify", "sweep")
WITH_REF = ("show", "get", "verify")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `artifact`."""
    parser.add_argument("action", choices=ACTIONS, help="what to do")
    parser.add_argument(
        "ref",
        nargs="?",
        metavar="REF",
        help="name, name:latest, name:best, name:v3 or project/name:v3; ls: only this name",
    )
    parser.add_argument("--project", help="only this project ($RUNWIRE_PROJECT)")
    parser.add_argument("--run", metavar="RUN_ID", help="ls: only artifacts of this run")
    parser.add_argument("--type", help="ls: only this type, for example model or checkpoint")
    parser.add_argument(
        "--limit",
        type=_count,
        default=50,
        metavar="N",
        help="ls: at most N, newest first (default 50)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="get: into this folder (default: NAME-vN)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="sweep: only report what would be deleted"
    )
    parser.add_argument(
        "--grace-s",
        type=_seconds,
        metavar="S",
        help="sweep: keep content that no manifest names for this long (default: a day)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return value


def run(args: argparse.Namespace) -> int:
    """Run the action; `verify` exits with 1 when content is missing or damaged."""
    from runwire_query.storage import open_catalog

    if (args.ref is None) == (args.action in WITH_REF) and args.action != "ls":
        hint = "which one? Give NAME or NAME:VERSION" if args.ref is None else "takes no REF"
        print(f"runwire artifact {args.action}: {hint}", file=sys.stderr)
        return 2
    with open_catalog(args.dir) as catalog:
        if args.action == "ls":
            return _ls(args, catalog)
        if args.action == "sweep":
            return _sweep(args, catalog)
        from runwire_query.storage import choose_project, find_artifact

        version = find_artifact(catalog, args.ref, choose_project(args.project))
        if args.action == "show":
            return _show(args, version, catalog.store.uri)
        if args.action == "verify":
            return _verify(args, catalog, version)
        return _get(args, catalog, version)


def _ls(args: argparse.Namespace, catalog: Catalog) -> int:
    from runwire_query.api.artifacts import list_artifacts
    from runwire_query.storage import choose_project
    from runwire_query.text.artifact_page import as_table, row_json
    from runwire_query.text.terminal import damage_lines

    project = choose_project(args.project)
    artifacts = list_artifacts(
        catalog, args.dir, project=project, run_id=args.run, name=args.ref, kind=args.type
    )
    if artifacts.missing_because:
        lost = "without lineage and unfinished uploads"
        print(f"{lost}: {artifacts.missing_because}", file=sys.stderr)
    for line in damage_lines(artifacts.damaged):
        print(line, file=sys.stderr)
    rows = artifacts.rows
    shown = rows[: args.limit]
    if args.json:
        print(json.dumps([row_json(row) for row in shown]))
    elif rows:
        print(as_table(shown))
        if len(shown) < len(rows):
            print(f"... and {len(rows) - len(shown)} older ones: --limit, --run, --type or a NAME")
    else:
        filtered = " that match" if project or args.run or args.type or args.ref else ""
        print(f"no artifacts{filtered} in {catalog.store.uri}: run.log_artifact(...) makes one")
    return 0


def _show(args: argparse.Namespace, version: Version, store: str) -> int:
    from runwire_query.api.artifacts import read_artifact
    from runwire_query.text.artifact_page import as_page, page_json

    artifact = read_artifact(version, args.dir, store_uri=store)
    if artifact.missing_because:
        print(f"without lineage: {artifact.missing_because}", file=sys.stderr)
    print(json.dumps(page_json(artifact)) if args.json else as_page(artifact))
    return 0


def _get(args: argparse.Namespace, catalog: Catalog, version: Version) -> int:
    from runwire_query.errors import printable
    from runwire_query.text.terminal import path_line, transfer_bar
    from runwire_store.download import download

    manifest = version.manifest
    into = args.output or Path(folder_name(f"{manifest.name}-v{version.number}"))
    with transfer_bar(version.ref, manifest.size) as progress:
        paths = download(catalog.store, manifest, into, progress=progress)
    if args.json:
        fetched = {"ref": version.ref, "sha256": manifest.digest, "bytes": manifest.size}
        print(json.dumps({**fetched, "files": [str(path) for path in paths]}))
    else:
        print("\n".join(map(path_line, paths)))
        print(printable(f"{version.ref}: {len(paths)} files, checksums right"), file=sys.stderr)
    return 0


def folder_name(text: str) -> str:
    """Return a name for a folder in the current one, made of any text."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip(".")[-100:] or "artifact"


def _verify(args: argparse.Namespace, catalog: Catalog, version: Version) -> int:
    from runwire_query.errors import printable
    from runwire_query.text.terminal import transfer_bar
    from runwire_store.download import verify

    manifest = version.manifest
    with transfer_bar(version.ref, manifest.size) as progress:
        problems = verify(catalog.store, manifest, progress=progress)
    if args.json:
        found = [asdict(problem) for problem in problems]
        print(json.dumps({"ref": version.ref, "ok": not found, "problems": found}))
        return 1 if found else 0
    for problem in problems:
        print(printable(f"{problem.path}: {problem.reason}"))
    files = printable(f"{version.ref}: {len(manifest.files)} files")
    print(f"{files}, {len(problems)} damaged or missing" if problems else f"{files}, all right")
    return 1 if problems else 0


def _sweep(args: argparse.Namespace, catalog: Catalog) -> int:
    from runwire_query.errors import printable
    from runwire_query.text.words import byte_size
    from runwire_store.sweep import GRACE_S, sweep

    grace_s = GRACE_S if args.grace_s is None else args.grace_s
    report = sweep(catalog.store, grace_s=grace_s, now_ns=time.time_ns(), dry_run=args.dry_run)
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        verb = "would delete" if args.dry_run else "deleted"
        print(
            f"{verb} {len(report.blobs)} files that no manifest names "
            f"({byte_size(report.blob_bytes)}) and the remains of {len(report.staging)} "
            f"interrupted transfers ({byte_size(report.staging_bytes)})"
        )
        if report.space_note:
            print(report.space_note)
    for reason in report.unreadable.values():
        sentence = f"no content was deleted, because a manifest is unreadable: {reason}"
        print(printable(sentence), file=sys.stderr)
    return 1 if report.unreadable else 0
