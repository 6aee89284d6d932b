"""`runwire artifact`: list, show, fetch and verify what runs stored; delete what nothing needs."""

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

SUMMARY = "artifacts: ls, show (lineage), get, verify (checksums), sweep (delete what is unused)"
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
    parser.add_argument("--run", metavar="RUN_ID", help="ls: only what this run logged")
    parser.add_argument("--type", help="ls: only this type, for example model or checkpoint")
    parser.add_argument(
        "--limit", type=_count, default=50, help="ls: at most so many, newest first (default 50)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="get: into this folder (default: NAME-vN)"
    )
    parser.add_argument("--dry-run", action="store_true", help="sweep: only tell what would go")
    parser.add_argument(
        "--grace-s",
        type=_seconds,
        metavar="S",
        help="sweep: content that nothing names stays for so long (default: a day)",
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
    """Do it; `verify` exits with 1 when something is missing or damaged."""
    from runwire_query.storage import opened

    if (args.ref is None) == (args.action in WITH_REF) and args.action != "ls":
        says = "which one? Give NAME or NAME:VERSION" if args.ref is None else "takes no REF"
        print(f"runwire artifact {args.action}: {says}", file=sys.stderr)
        return 2
    with opened(args.dir) as catalog:
        if args.action == "ls":
            return _ls(args, catalog)
        if args.action == "sweep":
            return _sweep(args, catalog)
        from runwire_query.storage import chosen_project, find_artifact

        version = find_artifact(catalog, args.ref, chosen_project(args.project))
        if args.action == "show":
            return _show(args, version, catalog.store.uri)
        if args.action == "verify":
            return _verify(args, catalog, version)
        return _get(args, catalog, version)


def _ls(args: argparse.Namespace, catalog: Catalog) -> int:
    from runwire_query import artifacts
    from runwire_query.storage import chosen_project

    project = chosen_project(args.project)
    rows = artifacts.listed(
        catalog, args.dir, project=project, run_id=args.run, name=args.ref, kind=args.type
    )
    shown = rows[: args.limit]
    if args.json:
        print(json.dumps(shown))
    elif rows:
        print(artifacts.as_table(shown))
        if len(shown) < len(rows):
            print(f"... and {len(rows) - len(shown)} older ones: --limit, --run, --type or a NAME")
    else:
        filtered = " that match" if project or args.run or args.type or args.ref else ""
        print(f"no artifacts{filtered} in {catalog.store.uri}: run.log_artifact(...) makes one")
    return 0


def _show(args: argparse.Namespace, version: Version, store: str) -> int:
    from runwire_query import artifacts

    page = artifacts.page(version, args.dir, store)
    print(json.dumps(page) if args.json else artifacts.as_page(page))
    return 0


def _get(args: argparse.Namespace, catalog: Catalog, version: Version) -> int:
    from runwire_query.text.terminal import path_line
    from runwire_query.text.transfer import transfer_bar
    from runwire_query.text.words import printable
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
    """A name that is safe as a folder in the current one, whatever somebody called a thing."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip(".")[-100:] or "artifact"


def _verify(args: argparse.Namespace, catalog: Catalog, version: Version) -> int:
    from runwire_query.text.transfer import transfer_bar
    from runwire_query.text.words import printable
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
    from runwire_query.text.words import byte_size, printable
    from runwire_store.sweep import GRACE_S, sweep

    grace_s = GRACE_S if args.grace_s is None else args.grace_s
    report = sweep(catalog.store, grace_s=grace_s, now_ns=time.time_ns(), dry_run=args.dry_run)
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        verb = "would delete" if args.dry_run else "deleted"
        print(
            f"{verb} {len(report.blobs)} files that nothing names ({byte_size(report.blob_bytes)}) "
            f"and what was left of {len(report.staging)} transfers "
            f"({byte_size(report.staging_bytes)})"
        )
    for reason in report.unreadable.values():
        told = f"no content was deleted, as its use is not known: {reason}"
        print(printable(told), file=sys.stderr)
    return 1 if report.unreadable else 0
