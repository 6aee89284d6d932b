"""Rules of retention of runs: whose runs, from which age on, deleted or thinned.

```toml
# retention.toml in the data folder: one rule that deletes a run is enough, else all that fit
# thin it, in this order.
[[rule]]
project = "cats"            # without: every project
older_than = "90d"          # since the run ended; s, min, h, d or w
state = ["failed", "killed"]    # without: every run that is not running
tag = "sweep=3"             # or just "sweep"; without: any tags
without_tag = "keep"        # runs with it are kept
action = "delete"

[[rule]]
older_than = "30d"
action = "thin"
keep_every = 100            # steps that are a multiple of it
[[rule]]
older_than = "60d"
action = "thin"
bucket = 1000               # least, greatest and last of so many steps
```
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

from runwire_schemas.errors import ConfigError

RULES_FILE: Final = "retention.toml"
DELETE, THIN = "delete", "thin"
# What v_runs says of a run that has ended.
ENDED: Final = ("finished", "failed", "killed", "interrupted", "preempted", "lost")
_UNITS_S: Final = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_AGE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h|d|w)")


class RuleError(ConfigError):
    """Rules that cannot be applied; the message says which one and what to write instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRule:
    """One rule. Units: `older_than_s` since the end of the run. Raises: RuleError."""

    action: str
    older_than_s: float
    project: str = ""
    states: tuple[str, ...] = ENDED
    tag: str = ""
    without_tag: str = ""
    keep_every: int = 0
    bucket: int = 0

    def __post_init__(self) -> None:
        if self.action not in (DELETE, THIN):
            raise RuleError(f'action = {self.action!r}: write "delete" or "thin"')
        if wrong := [state for state in self.states if state not in ENDED]:
            raise RuleError(f"state = {wrong[0]!r}: write {', '.join(ENDED)}; others still run")
        is_one = (self.keep_every > 0) != (self.bucket > 0)
        if self.action == THIN and not is_one:
            raise RuleError('a rule with action = "thin" needs keep_every = N or bucket = N')
        if self.action == DELETE and (self.keep_every or self.bucket):
            raise RuleError('keep_every and bucket are for action = "thin"')

    @property
    def text(self) -> str:
        """What the rule does, as runs that it was applied to remember it."""
        if self.action == DELETE:
            return DELETE
        return f"keep_every={self.keep_every}" if self.keep_every else f"bucket={self.bucket}"

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """Return the rule of a table of the file. Raises: RuleError."""
        known = {row.name for row in fields(cls)} - {"older_than_s", "states"}
        known |= {"older_than", "state"}
        if unknown := sorted(set(table) - known):
            raise RuleError(
                f"a rule knows no {', '.join(unknown)}: it has {', '.join(sorted(known))}"
            )
        values = dict(table)
        older_than, states = values.pop("older_than", None), values.pop("state", ENDED)
        if older_than is None or "action" not in values:
            raise RuleError("a rule needs older_than and action")
        for name in ("keep_every", "bucket"):
            if not _is_count(values.get(name, 1)):
                raise RuleError(f"{name} = {values[name]!r}: give a number of steps, 1 or more")
        texts = [name for name in ("action", "project", "tag", "without_tag") if name in values]
        # An empty one, such as of an unset variable of a shell, must not mean every run.
        if wrong := [
            name for name in texts if not (values[name] and isinstance(values[name], str))
        ]:
            raise RuleError(f"{wrong[0]} = {values[wrong[0]]!r}: give a text that is not empty")
        if isinstance(states, str):
            states = [states]
        if not isinstance(states, Sequence) or not all(isinstance(one, str) for one in states):
            raise RuleError(f"state = {states!r}: give a list of {', '.join(ENDED)}")
        return cls(older_than_s=parse_age(older_than), states=tuple(states), **values)


def parse_age(text: object) -> float:
    """Return the seconds of "90d" or "36h". Raises: RuleError."""
    match = _AGE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise RuleError(f'{text!r} is no age: write a number with s, min, h, d or w, such as "90d"')
    return float(match[1]) * _UNITS_S[match[2]]


def read_rules(path: Path) -> list[RunRule]:
    """Return the rules of a file, in their order; none when there is no file.

    Raises: RuleError naming the file; nothing of a file with an error is applied.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
        if unknown := sorted(set(document) - {"rule"}):
            raise RuleError(f"it has {unknown[0]!r}, and only [[rule]] is known")
        tables = document.get("rule", [])
        if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
            raise RuleError("rules are written below [[rule]]")
        return [RunRule.from_table(table) for table in tables]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise RuleError(f"{path}: {error}") from error


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
