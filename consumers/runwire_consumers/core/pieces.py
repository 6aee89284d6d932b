"""Pieces of a batch: the ranges of its items that a sink stores in inserts of their own.

A batch that is too large for the store, or holds a row that the store refuses, is written in
pieces, each under a token of its own. Exactly-once rests on four rules:
1. An item's place (a point's, an event's) is its position in the batch as its records make it: it
   never changes, whatever was rejected since or belongs to a deleted run.
2. The ranges follow from the intent alone: it holds the table below beside the spans, so that
   every owner of the intent writes the same ranges under the same tokens.
3. A range is cut only after the store has refused it, and in whole: what a refused insert would
   have stored is stored by nobody, and its token is never sent again. The others stay as they are.
4. A cut is durable in the intent before the first piece of it is sent.

A refusal of a range that the store took earlier (sent by an owner that died before its commit, and
now over a limit that was lowered meanwhile) cannot be told from any other: its rows are then stored
twice and collapse by the tables' keys. A range is therefore tried several times before it is cut,
until the worker has learned what size the table takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

# "<table>:<first>/<size>,<first>/<size>;<table>:…"
_TEXT: Final = re.compile(r"[a-z_]+:\d+/[1-9]\d*(?:,\d+/[1-9]\d*)*")


@dataclass(frozen=True, slots=True)
class Pieces:
    """Sizes of the pieces by table: (first place, size) in order, each up to the next one's first.

    A table without an entry is written whole.
    """

    sizes: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    def range_of(self, table: str, place: int) -> tuple[int, int] | None:
        """Return the range [first, end) of the piece that holds a place; None: the whole table."""
        sizes = self.sizes.get(table)
        if not sizes:
            return None
        index = max(i for i, (first, _) in enumerate(sizes) if first <= place)
        first, size = sizes[index]
        begin = place - (place - first) % size
        end = begin + size
        return begin, end if index + 1 == len(sizes) else min(end, sizes[index + 1][0])

    def cut(self, table: str, first: int, size: int, *, end: int | None = None) -> Self:
        """Return the pieces with everything from a range's first place cut to this size.

        With `end`, the end of a range, what follows keeps its size.
        """
        old = self.sizes.get(table, ())
        kept = [entry for entry in old if entry[0] < first]
        fresh = [(first, size)]
        if end is not None and old:
            behind = [entry for entry in old if entry[0] <= end]
            fresh += [(end, behind[-1][1])]
            fresh += [entry for entry in old if entry[0] > end]
        return type(self)({**self.sizes, table: (*kept, *fresh)})

    def __str__(self) -> str:
        """Return the text that an intent keeps; empty when every table is whole."""
        return ";".join(
            f"{table}:" + ",".join(f"{first}/{size}" for first, size in sizes)
            for table, sizes in sorted(self.sizes.items())
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the pieces of an intent's text. Raises: ValueError."""
        sizes: dict[str, tuple[tuple[int, int], ...]] = {}
        for entry in text.split(";") if text else ():
            if not _TEXT.fullmatch(entry):
                raise ValueError(f"{text!r} describes no pieces of a batch")
            table, _, ranges = entry.partition(":")
            pairs = (pair.split("/") for pair in ranges.split(","))
            sizes[table] = tuple((int(first), int(size)) for first, size in pairs)
            if sizes[table][0][0] != 0 or list(sizes[table]) != sorted(sizes[table]):
                raise ValueError(f"{text!r} describes no pieces of a batch")
        return cls(sizes)


WHOLE: Final = Pieces()
