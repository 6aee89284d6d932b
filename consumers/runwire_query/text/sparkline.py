"""Sparklines: a curve in one line of text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
FLAT = 1e-12  # relative: averages of equal values differ by rounding only
GAP = " "  # no finite value there


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Draw the values left to right; NaN and Inf leave a gap, longer curves are averaged.

    Shapes: at most `width` characters.
    """
    if not values or width < 1:
        return ""
    points = shrink(values, width)
    finite = [value for value in points if math.isfinite(value)]
    if not finite:
        return GAP * len(points)
    low, high = min(finite), max(finite)
    return "".join(_bar(value, low, high) for value in points)


def shrink(values: Sequence[float], width: int) -> list[float]:
    """Return at most `width` values: means of the finite values of equal slices, else NaN."""
    count = len(values)
    if count <= width:
        return [float(value) for value in values]
    edges = [index * count // width for index in range(width + 1)]
    slices = [values[start:stop] for start, stop in itertools.pairwise(edges)]
    return [_mean([value for value in part if math.isfinite(value)]) for part in slices]


def _mean(values: Sequence[float]) -> float:
    # Divided first: the sum of values near the largest double must not become infinite.
    return sum(value / len(values) for value in values) if values else math.nan


def _bar(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return GAP
    if high / 2 - low / 2 <= FLAT * max(abs(high), abs(low)):
        return BARS[len(BARS) // 2]
    span = high / 2 - low / 2  # halved: the span of two extreme doubles overflows
    share = (value / 2 - low / 2) / span
    return BARS[min(len(BARS) - 1, int(share * len(BARS)))]
