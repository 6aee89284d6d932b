"""`runwire spool ls | verify | cat`: look into the spool; it reads only and takes no lock."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

SUMMARY = "look into the spool: ls, verify (checksums), cat (records as JSON lines)"
EXAMPLE = "runwire spool cat --series metric --limit 20 my-run"
SERIES = ("lifecycle", "metric", "log", "system")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `spool`."""
    parser.add_argument("action", choices=("ls", "verify", "cat"), help="what to do")
    parser.add_argument(
        "folders", nargs="*", metavar="WRITER|RUN", help="beginning of a writer id, or a run id"
    )
    parser.add_argument("--series", choices=SERIES, help="cat, verify: only this series")
    parser.add_argument("--limit", type=int, metavar="N", help="cat: at most N records")
    parser.add_argument("--json", action="store_true", help="ls, verify: print a JSON array")


def run(args: argparse.Namespace) -> int:
    """Print it; `verify` exits with 1 when it finds damage."""
    from runwire_disk import paths

    root = paths.state_dir(args.dir)
    chosen = _choose(root, args.folders)
    if not chosen:
        words = f" for {', '.join(args.folders)}" if args.folders else ""
        print(f"no spool folder{words} under {paths.spool_dir(root)}", file=sys.stderr)
        if args.json:
            print("[]")
        return 1 if args.folders else 0
    series = (args.series,) if args.series else SERIES
    if args.action == "ls":
        return _ls(chosen, as_json=args.json)
    if args.action == "verify":
        return _verify(chosen, series, as_json=args.json)
    return _cat(chosen, series, args.limit)


def _choose(root: Path, words: list[str]) -> list[Path]:
    from runwire_disk.spool.format import SpoolError
    from runwire_disk.spool.reader import list_folders, read_meta

    folders = list_folders(root)
    if not words:
        return folders
    chosen = []
    for folder in folders:
        try:
            meta = read_meta(folder)
            fits = any(meta.writer.startswith(word) or meta.run_id == word for word in words)
        except SpoolError:
            fits = False
        if fits or any(folder.name.startswith(word) for word in words):
            chosen.append(folder)
    return chosen


def _ls(folders: list[Path], *, as_json: bool) -> int:
    from runwire_agent.commands.spool_records import describe

    rows = [row for folder in folders if (row := describe(folder)) is not None]
    if as_json:
        print(json.dumps(rows))
        return 0
    layout = "{:<12}  {:<8}  {:<24}  {:>4}  {:<5}  {:>8}  {:>12}  {:>9}"
    print(layout.format("writer", "role", "run", "rank", "alive", "step", "pending", "KiB"))
    for row in rows:
        if row["error"]:
            print(f"{row['folder'][:12]:<12}  not readable: {row['error']}")
            continue
        print(
            layout.format(
                row["writer"][:12],
                row["role"],
                row["run_id"] or "-",
                row["rank"],
                "yes" if row["alive"] else "no",
                "-" if row["last_step"] is None else row["last_step"],
                f"{row['pending_points']:,} pts",
                row["bytes"] // 1024,
            )
        )
    return 0


def _verify(folders: list[Path], series: tuple[str, ...], *, as_json: bool) -> int:
    from runwire_agent.commands.spool_records import verify_folder

    reports = [report for folder in folders for report in verify_folder(folder, series)]
    damaged = [report for report in reports if report["damage"]]
    if as_json:
        print(json.dumps(reports))
        return 1 if damaged else 0
    for report in damaged:
        for sentence in report["damage"]:
            print(f"{report['file']}: {sentence}")
    records = sum(report["records"] for report in reports)
    print(f"{len(reports)} segments, {records:,} records, {len(damaged)} damaged segments")
    if damaged:
        print("Everything else is delivered; the damaged bytes go to the dead letters.")
    return 1 if damaged else 0


def _cat(folders: list[Path], series: tuple[str, ...], limit: int | None) -> int:
    from runwire_agent.commands.spool_records import read_records

    records = (record for folder in folders for record in read_records(folder, series))
    for record in itertools.islice(records, limit):
        print(json.dumps(record, allow_nan=False))
    return 0
