"""`runwire dead-letters ls | show | replay`: records that could not be stored."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from runwire_consumers.core.dead_letters import DeadLetters
    from runwire_schemas.events import DeadLetter

SUMMARY = "look at records that could not be stored, and try them again"
EXAMPLE = "runwire dead-letters replay --all"
HEX_BYTES = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `dead-letters`."""
    parser.add_argument("action", choices=("ls", "show", "replay"), help="what to do")
    parser.add_argument("ids", nargs="*", metavar="ID", help="beginnings of letter ids")
    parser.add_argument("--all", action="store_true", help="replay: every letter")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; `replay` exits with 1 when a letter is still not storable."""
    from runwire_consumers.stack import letters
    from runwire_disk import paths
    from runwire_schemas.errors import CommandError, RunwireError

    root = paths.state_dir(args.dir)
    if args.action != "ls" and not args.ids and not args.all:
        print(f"runwire dead-letters {args.action}: name letters, or --all", file=sys.stderr)
        return 2
    kept, place = letters.open_letters(root, os.environ)
    try:
        chosen = _choose(kept.read() if kept is not None else [], args.ids)
    except RunwireError as error:
        if args.action == "ls" and not args.json:
            _ls_of_this_node(root, place)
        raise CommandError(f"the letters in {place} cannot be read: {error}") from error
    if args.action == "ls":
        return _ls(root, place, chosen, args)
    if kept is None or not chosen:
        return _nothing(place, args)
    if args.action == "show":
        return _show(chosen, as_json=args.json)
    return _replay(root, kept, chosen, as_json=args.json)


def _replay(root: Path, kept: DeadLetters, chosen: list[DeadLetter], *, as_json: bool) -> int:
    from runwire_consumers.stack import letters
    from runwire_consumers.stack.control import writer_url

    stored, failed = letters.replay(writer_url(root), kept, chosen)
    if as_json:
        print(json.dumps({"stored": stored, "failed": failed}))
    else:
        print(f"{len(stored)} letters are stored now and deleted here, {len(failed)} stay")
        for letter_id, reason in failed.items():
            print(f"  {letter_id}: {reason}")
    return 1 if failed else 0


def _nothing(place: str, args: argparse.Namespace) -> int:
    if args.json:
        print("[]")
    else:
        what = f"no dead letter fits {', '.join(args.ids)}" if args.ids else "no dead letters"
        print(f"{what} in {place}")
    return 1 if args.ids else 0


def _choose(kept: list[DeadLetter], ids: list[str]) -> list[DeadLetter]:
    if not ids:
        return kept
    return [letter for letter in kept if any(letter.id.startswith(word) for word in ids)]


def _ls(root: Path, place: str, chosen: list[DeadLetter], args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps([_fields(letter) for letter in chosen]))
        return 1 if args.ids and not chosen else 0
    for letter in chosen:
        at = datetime.fromtimestamp(letter.at_ns / 1e9, UTC)
        run_id = letter.run_id or "-"
        print(f"{letter.id[:16]}  {at:%Y-%m-%d %H:%M:%S}Z  {letter.stream:<8}  {run_id}")
        print(f"    {letter.reason}")
    if chosen:
        print(f"{len(chosen)} dead letters; `runwire dead-letters show ID` has the bytes")
    status = 0 if chosen else _nothing(place, args)
    _ls_of_this_node(root, place)
    return status


def _ls_of_this_node(root: Path, place: str) -> None:
    """Name the records that agents kept in the spool, and where the letters about them are."""
    from runwire_consumers.stack import letters

    for path in letters.oversized_records(root):
        size = path.stat().st_size
        print(f"{path}: {size:,} bytes, a record larger than its topic accepts")
    others = [topic for topic in letters.letter_topics(root) if topic != place]
    if others:
        print(
            f"letters about records shipped from here are in {', '.join(others)}: set "
            "RUNWIRE_KAFKA_BOOTSTRAP_SERVERS to read them"
        )


def _show(chosen: list[DeadLetter], *, as_json: bool) -> int:
    if as_json:
        values = [{**_fields(letter), "value_hex": letter.value.hex()} for letter in chosen]
        print(json.dumps(values))
        return 0
    for letter in chosen:
        for name, value in _fields(letter).items():
            print(f"{name:<12} {value}")
        print(f"{'value':<12} {_hex(letter.value)}\n")
    return 0


def _fields(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "stream": letter.stream,
        "partition": letter.partition,
        "offset": letter.offset,
        "last_offset": letter.last_offset,
        "at": datetime.fromtimestamp(letter.at_ns / 1e9, UTC).isoformat(),
        "project": letter.project,
        "run_id": letter.run_id,
        "points": letter.points,
        "reason": letter.reason,
        "value_bytes": len(letter.value),
    }


def _hex(value: bytes) -> str:
    more = f" ... {len(value) - HEX_BYTES} more bytes" if len(value) > HEX_BYTES else ""
    return value[:HEX_BYTES].hex(" ", 4) + more
