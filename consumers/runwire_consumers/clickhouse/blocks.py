"""Blocks of a batch: the rows of each table, cut into the pieces that the batch's intent names.

The places of `core/pieces.py` are positions among the events of a kind, and for metrics positions
of points, so that one large record can be cut too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from runwire_consumers.clickhouse.native import Block
from runwire_consumers.core.pieces import Pieces

__all__ = ["PlacedRow", "TablePiece", "TableRows"]


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """One event or metric batch: its first place and its index in the batch as it is now.

    Units: `size` in places; more than one for the points of a metric batch.
    """

    place: int
    index: int
    row: Any
    size: int = 1

    def split(self, table: str, pieces: Pieces) -> Iterator[tuple[tuple[int, int] | None, Any]]:
        """Yield this row by the ranges that hold it: (range, row)."""
        place, end = self.place, self.place + self.size
        while place < end:
            bounds = pieces.range_of(table, place)
            until = end if bounds is None else min(end, bounds[1])
            if (place, until) == (self.place, end):
                yield bounds, self
            else:
                points = slice(place - self.place, until - self.place)
                yield bounds, PlacedRow(place, self.index, self.row.sliced(points), until - place)
            place = until


class TablePiece:
    """One encoded block and the range of places that it covers."""

    def __init__(
        self, rows: TableRows, bounds: tuple[int, int] | None, placed: Sequence[PlacedRow]
    ) -> None:
        self.kind, self.table = rows.kind, rows.table
        self.is_whole = bounds is None
        end = placed[-1].place + placed[-1].size
        self.first, self.end = bounds or (0, end)
        is_single = len(placed) == 1 and placed[0].size == 1
        # Places from the first to the last row; 1 where there is nothing left to cut.
        self.span = 1 if is_single else end - self.first
        self.indexes = [item.index for item in placed]
        self.block = rows.encode([item.row for item in placed])

    def token(self, of_batch: str) -> str:
        """Return the insert token: the table's, or that of the range."""
        whole = f"{of_batch}:{self.table}"
        return whole if self.is_whole else f"{whole}:{self.first}-{self.end}"


@dataclass(frozen=True, slots=True)
class TableRows:
    """The rows of one table and how they become a block."""

    kind: str
    table: str
    placed: Sequence[PlacedRow]
    encode: Callable[[Sequence[Any]], bytes | Block]

    def pieces(self, pieces: Pieces) -> list[TablePiece]:
        """Return the blocks of the pieces. Raises: ValueError, OverflowError."""
        if self.table not in pieces.sizes:
            return [TablePiece(self, None, self.placed)] if self.placed else []
        parts = (part for item in self.placed for part in item.split(self.table, pieces))
        return [
            TablePiece(self, bounds, [row for _, row in group])
            for bounds, group in groupby(parts, lambda part: part[0])
        ]
