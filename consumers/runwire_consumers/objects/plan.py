"""Which pieces become one object in staging, and which objects make a file. Pure.

Batches end anywhere, replays begin anywhere, and an agent that was killed sends its last pieces
again: so runs may have any bounds and may overlap. What joins them copes with all of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from runwire_store.pieces import DIGEST_BYTES, RUN_PIECES, RUN_PIECES_MIN, StagedRun

# A run that has to be fetched and put again costs about as much as so many joined on the server.
_SHORT_COST: Final = 4


@dataclass(frozen=True, slots=True)
class Slice:
    """Pieces `first` up to `end`, which lie in `run`."""

    run: StagedRun
    first: int
    end: int

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its run."""
        return (self.first, self.end) == (self.run.first, self.run.end)


Part = tuple[Slice, ...]
"""One part of a file: one whole run as it lies there, else slices that are put together first."""


def stretches(indexes: Iterable[int]) -> list[range]:
    """Return the ranges without a gap."""
    found: list[range] = []
    for index in sorted(set(indexes)):
        if found and found[-1].stop == index:
            found[-1] = range(found[-1].start, index + 1)
        else:
            found.append(range(index, index + 1))
    return found


def cut(stretch: range) -> list[range]:
    """Cut a stretch into runs of about RUN_PIECES; none but a short stretch gives short runs."""
    count = max(1, len(stretch) // RUN_PIECES)
    bounds = [stretch.start + len(stretch) * n // count for n in range(count + 1)]
    return [range(first, end) for first, end in pairwise(bounds)]


def gather(runs: Iterable[StagedRun], digests: bytes, span: range) -> Part | None:
    """Return what makes the pieces of a span of a file; None when some are missing."""
    fitting = [run for run in sorted(runs) if _fits(run, digests)]
    slices = _cover(fitting, span)
    return None if slices is None else tuple(slices)


def assemble(runs: Iterable[StagedRun], digests: bytes) -> list[Part] | None:
    """Return the parts of the file whose pieces have these digests; None when pieces are missing.

    Runs of other content are left out. Every part but the last is long enough to be joined.
    """
    count = len(digests) // DIGEST_BYTES
    fitting = [run for run in sorted(runs) if _fits(run, digests)]
    slices = _chain(fitting, count) or _cover(fitting, range(count))
    return None if slices is None else _parts(slices, count)


def _fits(run: StagedRun, digests: bytes) -> bool:
    own = digests[run.first * DIGEST_BYTES : run.end * DIGEST_BYTES]
    is_inside = run.count > 0 and len(own) == run.count * DIGEST_BYTES
    return is_inside and hashlib.sha256(own).hexdigest() == run.digest


def _chain(runs: Sequence[StagedRun], count: int) -> list[Slice] | None:
    """Return whole runs that follow one another from the first to the last piece, the cheapest."""
    # Backwards: what it costs from a piece to the end, and the run to begin with.
    best: dict[int, tuple[int, StagedRun | None]] = {count: (0, None)}
    for run in reversed(runs):
        if run.end in best:
            cost = best[run.end][0] + (1 if _is_long(run.count, run.end, count) else _SHORT_COST)
            if run.first not in best or cost < best[run.first][0]:
                best[run.first] = (cost, run)
    if 0 not in best:
        return None
    found: list[Slice] = []
    step = best[0][1]
    while step is not None:
        found.append(Slice(step, step.first, step.end))
        step = best[step.end][1]
    return found


def _cover(runs: Sequence[StagedRun], span: range) -> list[Slice] | None:
    """Return slices of runs that may overlap, from the first to the last piece of the span."""
    found: list[Slice] = []
    at, position = span.start, 0
    furthest: StagedRun | None = None
    while at < span.stop:
        while position < len(runs) and runs[position].first <= at:
            if furthest is None or runs[position].end > furthest.end:
                furthest = runs[position]
            position += 1
        if furthest is None or furthest.end <= at:
            return None
        end = min(span.stop, furthest.end)
        found.append(Slice(furthest, at, end))
        at = end
    return found


def _parts(slices: Sequence[Slice], count: int) -> list[Part]:
    parts: list[Part] = []
    waiting: list[Slice] = []
    for one in slices:
        waiting.append(one)
        pieces = sum(each.end - each.first for each in waiting)
        if _is_long(pieces, one.end, count):
            parts.append(tuple(waiting))
            waiting = []
    return parts


def _is_long(pieces: int, end: int, count: int) -> bool:
    return pieces >= RUN_PIECES_MIN or end == count
