"""Plans, as pure functions: pieces cut into staged ranges, and ranges assembled to a file.

Batches end anywhere, replays begin anywhere, and a restarted agent sends its last pieces again: so
ranges may have any bounds and may overlap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from runwire_store.pieces import DIGEST_BYTES, RANGE_PIECES, RANGE_PIECES_MIN, StagedRange

# A range that has to be fetched and stored again costs about as much as joining four on the server.
_SHORT_COST: Final = 4


@dataclass(frozen=True, slots=True)
class Slice:
    """Pieces `first` up to `end` of a staged range."""

    staged: StagedRange
    first: int
    end: int

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole range."""
        return (self.first, self.end) == (self.staged.first, self.staged.end)


FilePart = tuple[Slice, ...]
"""One part of a file: a whole staged range, or slices that have to be copied together first."""


def stretches(indexes: Iterable[int]) -> list[range]:
    """Return the gapless stretches of piece numbers."""
    found: list[range] = []
    for index in sorted(set(indexes)):
        if found and found[-1].stop == index:
            found[-1] = range(found[-1].start, index + 1)
        else:
            found.append(range(index, index + 1))
    return found


def cut(stretch: range) -> list[range]:
    """Cut a stretch into ranges of about RANGE_PIECES; only a short stretch gives a short range."""
    count = max(1, len(stretch) // RANGE_PIECES)
    bounds = [stretch.start + len(stretch) * n // count for n in range(count + 1)]
    return [range(first, end) for first, end in pairwise(bounds)]


def gather(ranges: Iterable[StagedRange], digests: bytes, span: range) -> FilePart | None:
    """Return the slices with the pieces of a span of a file; None when some are missing."""
    fitting = [staged for staged in sorted(ranges) if _fits(staged, digests)]
    slices = _cover(fitting, span)
    return None if slices is None else tuple(slices)


def assemble(ranges: Iterable[StagedRange], digests: bytes) -> list[FilePart] | None:
    """Return the parts of the file whose pieces have these digests; None when pieces are missing.

    Ranges of other content are ignored. Every part but the last is long enough to be joined.
    """
    count = len(digests) // DIGEST_BYTES
    fitting = [staged for staged in sorted(ranges) if _fits(staged, digests)]
    slices = _chain(fitting, count) or _cover(fitting, range(count))
    return None if slices is None else _parts(slices, count)


def _fits(staged: StagedRange, digests: bytes) -> bool:
    own = digests[staged.first * DIGEST_BYTES : staged.end * DIGEST_BYTES]
    is_inside = staged.count > 0 and len(own) == staged.count * DIGEST_BYTES
    return is_inside and hashlib.sha256(own).hexdigest() == staged.digest


def _chain(ranges: Sequence[StagedRange], count: int) -> list[Slice] | None:
    """Return the cheapest sequence of whole ranges from the first to the last piece."""
    # Backwards: the cost from a piece to the end, and the range to begin with.
    best: dict[int, tuple[int, StagedRange | None]] = {count: (0, None)}
    for staged in reversed(ranges):
        if staged.end in best:
            cost = best[staged.end][0] + (
                1 if _is_long(staged.count, staged.end, count) else _SHORT_COST
            )
            if staged.first not in best or cost < best[staged.first][0]:
                best[staged.first] = (cost, staged)
    if 0 not in best:
        return None
    found: list[Slice] = []
    step = best[0][1]
    while step is not None:
        found.append(Slice(step, step.first, step.end))
        step = best[step.end][1]
    return found


def _cover(ranges: Sequence[StagedRange], span: range) -> list[Slice] | None:
    """Return slices of overlapping ranges, from the first to the last piece of the span."""
    found: list[Slice] = []
    at, position = span.start, 0
    furthest: StagedRange | None = None
    while at < span.stop:
        while position < len(ranges) and ranges[position].first <= at:
            if furthest is None or ranges[position].end > furthest.end:
                furthest = ranges[position]
            position += 1
        if furthest is None or furthest.end <= at:
            return None
        end = min(span.stop, furthest.end)
        found.append(Slice(furthest, at, end))
        at = end
    return found


def _parts(slices: Sequence[Slice], count: int) -> list[FilePart]:
    parts: list[FilePart] = []
    waiting: list[Slice] = []
    for part in slices:
        waiting.append(part)
        pieces = sum(other.end - other.first for other in waiting)
        if _is_long(pieces, part.end, count):
            parts.append(tuple(waiting))
            waiting = []
    return parts


def _is_long(pieces: int, end: int, count: int) -> bool:
    return pieces >= RANGE_PIECES_MIN or end == count
