"""`runwire dead-letters ls | show | replay | rm`: records that could not be stored."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from runwire_consumers.commands.letter_choice import Choice, add_choice, choice_of

if TYPE_CHECKING:
    from pathlib import Path

    from runwire_consumers.core.dead_letters import DeadLetters
    from runwire_consumers.stack.letters import OversizedRecord
    from runwire_schemas.events import DeadLetter

SUMMARY = "look at records that could not be stored, try them again, or delete them"
EXAMPLE = "runwire dead-letters rm --source metric --before 7d"
HEX_BYTES = 256
NEEDS_CHOICE = ("show", "replay", "rm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The letters that the command line names, and where they are; `files` are on this node."""

    kept: DeadLetters | None
    place: str
    letters: list[DeadLetter]
    files: list[OversizedRecord]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `dead-letters`."""
    parser.add_argument("action", choices=("ls", *NEEDS_CHOICE), help="what to do")
    add_choice(parser)
    parser.add_argument("--yes", action="store_true", help="rm: do not ask")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; `replay` exits with 1 when a letter is still not storable."""
    from runwire_disk import paths

    root = paths.state_dir(args.dir)
    choice = choice_of(args)
    if args.action in NEEDS_CHOICE and not (args.all or choice.is_limited):
        print(
            f"runwire dead-letters {args.action}: name letters, or choose them with --source or "
            "--before, or --all",
            file=sys.stderr,
        )
        return 2
    chosen = _choose(root, choice, args)
    if args.action == "ls":
        return _ls(root, chosen, args)
    if not chosen.letters and not (chosen.files and args.action in {"rm", "show"}):
        return _nothing(chosen.place, args)
    if args.action == "show":
        return _show(chosen, as_json=args.json)
    if args.action == "rm":
        return _rm(chosen, choice, args)
    assert chosen.kept is not None  # there are letters
    return _replay(root, chosen.kept, chosen.letters, as_json=args.json)


def _choose(root: Path, choice: Choice, args: argparse.Namespace) -> Chosen:
    """Return what the command line names. Raises: CommandError when letters cannot be read."""
    from runwire_consumers.stack import letters
    from runwire_schemas.errors import CommandError, RunwireError

    kept, place = letters.open_letters(root, os.environ)
    files = [one for one in letters.oversized_records(root) if choice.fits(one.letter)]
    try:
        all_letters = kept.read() if kept is not None else []
    except RunwireError as error:
        if args.action == "ls" and not args.json:
            _ls_of_this_node(root, place, files)
        raise CommandError(f"the letters in {place} cannot be read: {error}") from error
    fitting = [letter for letter in all_letters if choice.fits(letter)]
    return Chosen(kept=kept, place=place, letters=fitting, files=files)


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


def _rm(chosen: Chosen, choice: Choice, args: argparse.Namespace) -> int:
    """Delete the letters, after a yes; their points stay counted as dead-lettered."""
    from runwire_consumers.commands.run_choice import confirm

    unknown = choice.without_match([*chosen.letters, *(one.letter for one in chosen.files)])
    if unknown:
        print(
            f"no dead letter fits {', '.join(unknown)} in {chosen.place}; nothing was deleted",
            file=sys.stderr,
        )
        return 1
    what = _describe(chosen)
    if not args.yes and not confirm(
        f"Delete {what} for good? Their bytes cannot be replayed then."
    ):
        print("nothing was deleted", file=sys.stderr)
        return 1
    ids = {letter.id for letter in chosen.letters}
    deleted = chosen.kept.remove(ids, is_final=True) if chosen.kept is not None and ids else 0
    for one in chosen.files:
        one.path.unlink(missing_ok=True)
    if args.json:
        paths = [str(one.path) for one in chosen.files]
        print(json.dumps({"deleted": sorted(ids), "files": paths}))
        return 0
    print(f"deleted {_describe(chosen)}")
    if deleted:
        print(
            "v_dead_letters keeps their reasons, and v_completeness still counts their points as "
            "dead-lettered; a worker that stopped at the limit can be started again"
        )
    return 0


def _describe(chosen: Chosen) -> str:
    """Return what is chosen, in words: how many letters of which kinds, and where."""
    parts = []
    if chosen.letters:
        kinds = Counter(letter.stream or "unknown" for letter in chosen.letters)
        by_kind = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
        points = sum(letter.points for letter in chosen.letters)
        parts.append(
            f"{len(chosen.letters):,} dead letters ({by_kind}; {points:,} points known) in "
            f"{chosen.place}"
        )
    if chosen.files:
        parts.append(f"{len(chosen.files):,} oversized records in the spool of this node")
    return " and ".join(parts)


def _nothing(place: str, args: argparse.Namespace) -> int:
    is_limited = choice_of(args).is_limited
    if args.json:
        print("[]")
    elif is_limited:
        print(f"no dead letter fits {choice_of(args).words} in {place}")
    else:
        print(f"no dead letters in {place}")
    return 1 if is_limited else 0


def _ls(root: Path, chosen: Chosen, args: argparse.Namespace) -> int:
    is_found = bool(chosen.letters or chosen.files)
    if args.json:
        rows = [_fields(letter) for letter in chosen.letters]
        rows += [_file_fields(one) for one in chosen.files]
        print(json.dumps(rows))
        return 1 if args.ids and not is_found else 0
    for letter in chosen.letters:
        at = datetime.fromtimestamp(letter.at_ns / 1e9, UTC)
        run_id = letter.run_id or "-"
        print(f"{letter.id[:16]}  {at:%Y-%m-%d %H:%M:%S}Z  {letter.stream:<8}  {run_id}")
        print(f"    {letter.reason}")
        if letter.is_cut:
            print(
                f"    the first {len(letter.value):,} of {letter.whole_bytes:,} bytes are kept; "
                f"the record is at offset {letter.offset} of {letter.partition}"
            )
    if chosen.letters:
        print(f"{len(chosen.letters)} dead letters; `runwire dead-letters show ID` has the bytes")
    status = 0 if is_found else _nothing(chosen.place, args)
    if chosen.files and not chosen.letters:
        print(f"no dead letters in {chosen.place}")
    _ls_of_this_node(root, chosen.place, chosen.files)
    return status


def _ls_of_this_node(root: Path, place: str, files: list[OversizedRecord]) -> None:
    """Name the records that agents kept in the spool, and where the letters about them are."""
    from runwire_consumers.stack import letters

    for one in files:
        print(
            f"{one.path}: {one.size:,} bytes, a record larger than its topic accepts "
            f"(ID {one.letter.id[:16]})"
        )
    others = [topic for topic in letters.letter_topics(root) if topic != place]
    if others:
        print(
            f"letters about records shipped from here are in {', '.join(others)}: set "
            "RUNWIRE_KAFKA_BOOTSTRAP_SERVERS to read them"
        )


def _show(chosen: Chosen, *, as_json: bool) -> int:
    shown = [(_fields(letter), letter.value) for letter in chosen.letters]
    shown += [(_file_fields(one), one.path.read_bytes()) for one in chosen.files]
    if as_json:
        print(json.dumps([{**fields, "value_hex": value.hex()} for fields, value in shown]))
        return 0
    for fields, value in shown:
        for name, field in fields.items():
            if field is not None:
                print(f"{name:<12} {field}")
        print(f"{'value':<12} {_hex(value)}\n")
    return 0


def _fields(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "stream": letter.stream,
        "partition": letter.partition,
        "offset": letter.offset,
        "last_offset": letter.last_offset,
        "topic_id": letter.topic_id,
        "at": datetime.fromtimestamp(letter.at_ns / 1e9, UTC).isoformat(),
        "project": letter.project,
        "run_id": letter.run_id,
        "points": letter.points,
        "reason": letter.reason,
        "value_bytes": letter.whole_bytes,
        "kept_bytes": len(letter.value),
        "value_sha256": letter.value_sha256 or None,
        "file": None,
    }


def _file_fields(one: OversizedRecord) -> dict[str, Any]:
    sizes = {"value_bytes": one.size, "kept_bytes": one.size}
    return {**_fields(one.letter), **sizes, "file": str(one.path)}


def _hex(value: bytes) -> str:
    more = f" ... {len(value) - HEX_BYTES} more bytes" if len(value) > HEX_BYTES else ""
    return value[:HEX_BYTES].hex(" ", 4) + more
