"""Log of metric cuts: the records of a writer that make each batch, written before it is sent.

One line per metric cut in `cuts.log` of the spool folder. After a crash every cut without an
acknowledgement is rebuilt exactly like this, so that a batch number of a writer has the same
content for ever. Where lines overlap the later one holds: a batch that brokers refused as too
large was never stored, and is written down again in two halves.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from runwire_disk.line_log import LineLog, read_log

__all__ = ["CUTS_LOG_FILE", "BatchRange", "CutsLog"]

CUTS_LOG_FILE: Final = "cuts.log"
COMPACT_BYTES = 64 * 1024  # some thousand cuts: a few milliseconds at the next opening
LINE_BYTES = 64  # about, of one cut


class BatchRange(NamedTuple):
    """Metric records [first_seq, last_seq] make batch `batch_seq`."""

    first_seq: int
    last_seq: int
    batch_seq: int


class CutsLog:
    """The log in `folder`; the holder of the reader lock alone opens it.

    `notices` are sentences about damage that the opening met. Raises: OSError.
    """

    def __init__(self, folder: Path) -> None:
        self._log = LineLog(folder / CUTS_LOG_FILE)
        self._cuts: list[BatchRange] = []
        self.notices: list[str] = []
        self.next_batch_seq = 0
        self._load()

    def add(self, cuts: Iterable[BatchRange]) -> None:
        """Write cuts down for good. Blocks: one fdatasync. Raises: OSError."""
        fresh = list(cuts)
        self._log.append(fresh)
        for cut in fresh:
            self._apply(cut)

    def split(self, cut: BatchRange) -> None:
        """Write a refused cut down again as two halves under new numbers. Blocks: one fdatasync."""
        middle = (cut.first_seq + cut.last_seq) // 2
        number = self.next_batch_seq
        self.add(
            [
                BatchRange(cut.first_seq, middle, number),
                BatchRange(middle + 1, cut.last_seq, number + 1),
            ]
        )

    def open_cuts(self, position: int) -> list[BatchRange]:
        """Return the cuts from `position` on, in the order of their records."""
        return sorted(cut for cut in self._cuts if cut.last_seq >= position)

    def forget(self, position: int) -> None:
        """Drop the cuts before `position`: the saved cursor covers them."""
        self._cuts = [cut for cut in self._cuts if cut.last_seq >= position]
        if self._log.size >= COMPACT_BYTES and len(self._cuts) * LINE_BYTES < COMPACT_BYTES:
            self._rewrite()

    def close(self) -> None:
        """Release the file."""
        self._log.close()

    def _load(self) -> None:
        content = read_log(self._log.path)
        # A cut that misses its newline was not sent: `add` had not returned.
        unusable = sum(not self._take(fact) for fact in content.facts)
        damaged = content.damaged + unusable
        if damaged:
            # Each fact that was lost may have been one cut: none of those numbers may come back.
            self.next_batch_seq += content.facts_lost_max + unusable
            self.notices.append(
                f"{damaged} lines of {self._log.path} are damaged; their points get new batch "
                "numbers, so some may be counted twice in v_completeness. The tables' keys show "
                "each once"
            )
        if content.needs_rewrite or damaged:
            self._rewrite()
        else:
            self._log.open()

    def _take(self, fact: Any) -> bool:
        """Take one line: [next number] of a compaction, or a cut; false when it is neither."""
        if not isinstance(fact, list) or not all(isinstance(number, int) for number in fact):
            return False
        if len(fact) == 1:
            self.next_batch_seq = max(self.next_batch_seq, fact[0])
        elif len(fact) == 3:
            self._apply(BatchRange(*fact))
        else:
            return False
        return True

    def _apply(self, cut: BatchRange) -> None:
        self._cuts = [
            old
            for old in self._cuts
            if old.last_seq < cut.first_seq or old.first_seq > cut.last_seq
        ]
        self._cuts.append(cut)
        self.next_batch_seq = max(self.next_batch_seq, cut.batch_seq + 1)

    def _rewrite(self) -> None:
        """Replace the file by one of the cuts that still matter, and the next number."""
        self._log.rewrite([[self.next_batch_seq], *self._cuts])
