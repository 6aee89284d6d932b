"""Choice of dead letters on a command line: by id, by source, by age."""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire_schemas.events import DeadLetter

_AGE = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Conditions that a letter has to fit, all of them; without any, every letter fits."""

    ids: tuple[str, ...] = ()
    source: str = ""
    before_ns: int | None = None

    @property
    def is_limited(self) -> bool:
        """Whether there is a condition."""
        return bool(self.ids or self.source or self.before_ns is not None)

    @property
    def words(self) -> str:
        """The conditions as a user wrote them, except for the time, which is in UTC."""
        words = list(self.ids)
        if self.source:
            words.append(f"--source {self.source}")
        if self.before_ns is not None:
            words.append(f"--before {datetime.fromtimestamp(self.before_ns / 1e9, UTC):%FT%TZ}")
        return ", ".join(words)

    def fits(self, letter: DeadLetter) -> bool:
        """Return whether a letter fits."""
        return (
            (not self.ids or any(letter.id.startswith(word) for word in self.ids))
            and (not self.source or self.source in _names(letter))
            and (self.before_ns is None or letter.at_ns < self.before_ns)
        )

    def without_match(self, letters: list[DeadLetter]) -> list[str]:
        """Return the ids of the command line that no letter has."""
        return [
            word for word in self.ids if not any(letter.id.startswith(word) for letter in letters)
        ]


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose letters."""
    parser.add_argument("ids", nargs="*", metavar="ID", help="beginnings of letter ids")
    parser.add_argument("--all", action="store_true", help="show, replay, rm: every letter")
    parser.add_argument(
        "--source",
        default="",
        metavar="NAME",
        help="only letters of this kind (metric), topic, topic/partition, writer or run id",
    )
    parser.add_argument(
        "--before",
        metavar="TIME",
        help="only records that arrived before a time (2026-05-01, 2026-05-01T12:00+02:00; UTC "
        "without an offset) or an age (90m, 12h, 7d)",
    )


def choice_of(args: argparse.Namespace) -> Choice:
    """Return the choice on a command line. Raises: CommandError for one that means nothing."""
    from runwire_schemas.errors import MISUSE, CommandError

    if any(not word for word in args.ids):
        raise CommandError("an empty id fits every letter: say --all if you mean that", MISUSE)
    choice = Choice(
        ids=tuple(word.lower() for word in args.ids),
        source=args.source,
        before_ns=None if args.before is None else _instant_ns(args.before),
    )
    if args.all and choice.is_limited:
        raise CommandError(
            "--all means every letter: leave it out, or the ids, --source and --before", MISUSE
        )
    return choice


def _names(letter: DeadLetter) -> set[str]:
    """Return the names that a user may know the letter's source by."""
    parent, _, _ = letter.partition.rpartition("/")
    names = {letter.stream, letter.partition, parent, letter.run_id}
    return names | {letter.key.decode(errors="replace")}


def _instant_ns(text: str) -> int:
    from runwire_schemas.errors import MISUSE, CommandError

    age = _AGE.fullmatch(text.strip().lower())
    if age is not None:
        return time.time_ns() - int(age[1]) * _SECONDS[age[2]] * 1_000_000_000
    try:
        at = datetime.fromisoformat(text.strip())
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return int(at.timestamp() * 1e9)
    except (ValueError, OverflowError) as error:
        raise CommandError(
            f"--before {text!r} is neither a time such as 2026-05-01T12:00 nor an age such as 7d",
            MISUSE,
        ) from error
