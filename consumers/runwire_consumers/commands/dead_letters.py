"""`runwire dead-letters ls | show | replay`: records that could not be stored."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runwire_schemas.events import DeadLetter

SUMMARY = "look at records that could not be stored, and try them again"
EXAMPLE = "runwire dead-letters replay --all"
HEX_BYTES = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dead-letters`."""
    parser.add_argument("action", choices=("ls", "show", "replay"), help="what to do")
    parser.add_argument("ids", nargs="*", metavar="ID", help="beginnings of letter ids")
    parser.add_argument("--all", action="store_true", help="replay: every letter")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; `replay` exits with 1 when a letter is still not storable."""
    from runwire_consumers.stack import letters
    from runwire_consumers.stack.control import writer_url
    from runwire_disk import paths

    root = paths.state_dir(args.dir)
    if args.action != "ls" and not args.ids and not args.all:
        print(f"runwire dead-letters {args.action}: name letters, or --all", file=sys.stderr)
        return 2
    kept, place = letters.kept_letters(root, os.environ)
    found = _chosen(kept.read() if kept is not None else [], args.ids)
    if not found:
        return _nothing(place, args)
    if args.action == "ls":
        return _ls(found, as_json=args.json)
    if args.action == "show":
        return _show(found, as_json=args.json)
    assert kept is not None
    stored, failed = letters.replay(writer_url(root), kept, found)
    if args.json:
        print(json.dumps({"stored": stored, "failed": failed}))
    else:
        print(f"{len(stored)} letters are stored now and forgotten, {len(failed)} stay")
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


def _chosen(found: list[DeadLetter], ids: list[str]) -> list[DeadLetter]:
    if not ids:
        return found
    return [letter for letter in found if any(letter.id.startswith(word) for word in ids)]


def _ls(found: list[DeadLetter], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps([_fields(letter) for letter in found]))
        return 0
    for letter in found:
        at = datetime.fromtimestamp(letter.at_ns / 1e9, UTC)
        run_id = letter.run_id or "-"
        print(f"{letter.id[:16]}  {at:%Y-%m-%d %H:%M:%S}Z  {letter.stream:<8}  {run_id}")
        print(f"    {letter.reason}")
    print(f"{len(found)} dead letters; `runwire dead-letters show ID` has the bytes")
    return 0


def _show(found: list[DeadLetter], *, as_json: bool) -> int:
    if as_json:
        values = [{**_fields(letter), "value_hex": letter.value.hex()} for letter in found]
        print(json.dumps(values))
        return 0
    for letter in found:
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
