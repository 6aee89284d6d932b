"""Cuts of one folder: the ranges of records that make its batches, and the next free number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from runwire_disk.line_log import read_log

__all__ = ["CUTS_LOG_FILE", "BatchRange", "FolderCuts", "LegacyCuts", "read_legacy"]

# Where agents before the journal of all folders kept the cuts of one.
CUTS_LOG_FILE: Final = "cuts.log"


class BatchRange(NamedTuple):
    """Metric records [first_seq, last_seq] make batch `batch_seq`; without records it is used."""

    first_seq: int
    last_seq: int
    batch_seq: int


@dataclass(slots=True)
class FolderCuts:
    """Cuts that the saved cursor of a folder does not cover, and the next number."""

    name: str
    cuts: list[BatchRange] = field(default_factory=list)
    next_batch_seq: int = 0
    is_open: bool = False  # a reader holds the folder
    saved_batch_seq: int = 0

    @property
    def is_done(self) -> bool:
        """Tell whether the saved cursor says everything that is known here."""
        return not self.cuts and self.next_batch_seq <= self.saved_batch_seq

    def apply(self, cut: BatchRange) -> None:
        """Take a cut; one with a higher number that overlaps it holds instead."""
        self.next_batch_seq = max(self.next_batch_seq, cut.batch_seq + 1)
        if cut.last_seq < cut.first_seq:
            return
        apart: list[BatchRange] = []
        for old in self.cuts:
            if old.last_seq < cut.first_seq or old.first_seq > cut.last_seq:
                apart.append(old)
            elif old.batch_seq > cut.batch_seq:
                return
        self.cuts = [*apart, cut]

    def apply_all(self, cuts: Iterable[BatchRange]) -> None:
        """Take cuts in any order."""
        for cut in cuts:
            self.apply(cut)

    def halves(self, cut: BatchRange) -> list[BatchRange]:
        """Return a refused cut as two halves under new numbers."""
        middle = (cut.first_seq + cut.last_seq) // 2
        number = self.next_batch_seq
        return [
            BatchRange(cut.first_seq, middle, number),
            BatchRange(middle + 1, cut.last_seq, number + 1),
        ]

    def open_cuts(self, position: int) -> list[BatchRange]:
        """Return the cuts from `position` on, in the order of their records."""
        return sorted(cut for cut in self.cuts if cut.last_seq >= position)

    def forget(self, position: int, saved_batch_seq: int) -> None:
        """Drop the cuts that the saved cursor covers."""
        self.cuts = [cut for cut in self.cuts if cut.last_seq >= position]
        self.saved_batch_seq = max(self.saved_batch_seq, saved_batch_seq)

    def skip_numbers(self, count: int) -> None:
        """Use none of the next `count` numbers: damage may have swallowed that they were used."""
        self.next_batch_seq = max(self.next_batch_seq, self.saved_batch_seq) + count

    def needed(self) -> list[BatchRange]:
        """Return what a journal must keep: a cut without records keeps the numbers used."""
        return [BatchRange(0, -1, self.next_batch_seq - 1), *self.cuts]


@dataclass(slots=True)
class LegacyCuts:
    """Content of a folder's own log of cuts."""

    path: Path
    cuts: list[BatchRange] = field(default_factory=list)
    lost: int = 0  # numbers that damage may have swallowed
    notices: list[str] = field(default_factory=list)


def read_legacy(folder: Path) -> LegacyCuts | None:
    """Return the cuts in a folder's own log, None where there is none. Raises: OSError."""
    legacy = LegacyCuts(folder / CUTS_LOG_FILE)
    if not legacy.path.exists():
        return None
    content = read_log(legacy.path)
    cuts = [_legacy_cut(fact) for fact in content.facts]
    legacy.cuts = [cut for cut in cuts if cut is not None]
    damaged = content.damaged + cuts.count(None)
    if damaged:
        # Each fact that was lost may have been one cut: none of those numbers may come back.
        legacy.lost = content.facts_lost_max + cuts.count(None)
        legacy.notices.append(
            f"{damaged} lines of {legacy.path} are damaged; their points get new batch numbers, "
            "so some may be counted twice in v_completeness. The tables' keys show each once"
        )
    return legacy


def _legacy_cut(fact: Any) -> BatchRange | None:
    """Return one line's cut; [next number] of a compaction becomes one without records."""
    if isinstance(fact, list) and all(isinstance(number, int) for number in fact):
        if len(fact) == 1:
            return BatchRange(0, -1, fact[0] - 1)
        if len(fact) == 3:
            return BatchRange(*fact)
    return None
