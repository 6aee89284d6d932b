"""Ranks whose metrics are recorded: all of a job by default, or those that `ranks` names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from runwire_disk.interrupts import reraise_interrupt

__all__ = ["ALL", "ZERO", "RecordedRanks", "parse_ranks"]

_log = logging.getLogger("runwire")
ALL: Final = "all"
ZERO: Final = "zero"
UNRECORDED: Final = "rank_not_recorded"  # a drop reason
Ranks = str | tuple[int, ...]


def parse_ranks(value: object) -> Ranks:
    """Return "all", "zero" or ranks, from such a word, "0,4", a rank or a sequence of ranks.

    Raises: ValueError, TypeError.
    """
    if isinstance(value, str):
        word = value.strip().lower()
        if word in (ALL, ZERO):
            return word
        parts: list[object] = list(word.split(","))
    elif isinstance(value, int):
        parts = [value]
    else:
        parts = list(value)  # type: ignore[call-overload]
    numbers = tuple(sorted({_rank(part) for part in parts}))
    if not numbers:
        raise ValueError
    return numbers


def _rank(value: object) -> int:
    if isinstance(value, bool):
        raise TypeError
    number = int(value)  # type: ignore[call-overload]
    if number < 0 or number != (int(value) if isinstance(value, str) else value):
        raise ValueError
    return int(number)


class RecordedRanks:
    """The choice of one run."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = (0,) if ranks == ZERO else ranks
        self._has_spoken = False

    def includes(self, rank: int) -> bool:
        """Return whether the metrics of a rank are recorded."""
        return self._ranks == ALL or rank in self._ranks

    def progress_only(
        self, log: Callable[..., None], count_dropped: Callable[[str, int], None], rank: int
    ) -> Callable[..., None]:
        """Return a `log` for a rank that is left out: it shows the step and counts the points."""

        def log_progress(
            data: object = None, step: int | None = None, *_: object, **__: object
        ) -> None:
            try:
                points = len(data) if isinstance(data, Mapping) else 0
            except Exception as error:  # of a user's class
                reraise_interrupt(error)
                points = 1
            if points:
                count_dropped(UNRECORDED, points)
            self._say_once(rank)
            log({}, step)

        return log_progress

    def _say_once(self, rank: int) -> None:
        """Log that points are left out: once in a job, by its lowest such rank."""
        if self._has_spoken:
            return
        self._has_spoken = True
        lowest = next(number for number in range(rank + 1) if not self.includes(number))
        if rank == lowest:
            _log.warning(
                "runwire: metrics of rank %d and others are not recorded, as ranks=%s asks; they "
                "are counted as dropped. Use ranks='all' to record them.",
                rank,
                "zero" if self._ranks == (0,) else list(self._ranks),
            )
