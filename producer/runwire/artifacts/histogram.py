"""Distributions of many values as a few counts, recorded like a text."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from runwire.errors import ArtifactError

__all__ = ["BINS", "Histogram"]

BINS: Final = 64
# Two numbers of up to 25 characters each have to fit the 64 KiB of a text.
BINS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between edges. Shapes: n counts, n + 1 rising edges."""

    edges: Sequence[float]
    counts: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", [float(edge) for edge in self.edges])
        object.__setattr__(self, "counts", [_count(count) for count in self.counts])
        bins = len(self.counts)
        if len(self.edges) != bins + 1 or not 1 <= bins <= BINS_MAX:
            raise ArtifactError(
                f"a histogram has 1 to {BINS_MAX} counts and one edge more; got "
                f"{bins} counts and {len(self.edges)} edges"
            )
        rising = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        if not rising or not all(map(math.isfinite, self.edges)):
            raise ArtifactError("the edges of a histogram are finite and rise from first to last")

    @classmethod
    def of(cls, values: Any, bins: int = BINS) -> Histogram:
        """Count values, or an array or CPU tensor of any shape; NaN and infinities are left out.

        Raises: ArtifactError when nothing is left.
        """
        if not 1 <= bins <= BINS_MAX:
            raise ArtifactError(f"bins={bins}: use 1 to {BINS_MAX}")
        array = _array(values)
        if array is None:
            return _counted(values, bins)
        flat = array.reshape(-1).astype("float64")
        numpy = sys.modules[type(flat).__module__.partition(".")[0]]
        flat = flat[numpy.isfinite(flat)]
        if flat.size == 0:
            raise ArtifactError(_NOTHING)
        low, high = _spread(float(flat.min()), float(flat.max()))
        counts, edges = numpy.histogram(flat, bins=bins, range=(low, high))
        return cls(edges.tolist(), counts.tolist())

    def as_json(self) -> str:
        """Return {"edges": […], "counts": […]}, as `v_histograms` reads it."""
        return json.dumps({"edges": self.edges, "counts": self.counts}, separators=(",", ":"))


_NOTHING: Final = "a histogram needs at least one finite value"


def _array(values: Any) -> Any:
    """Return what knows numpy's methods, None for plain sequences."""
    if callable(getattr(values, "detach", None)):
        if getattr(values, "is_cuda", False):
            raise ArtifactError(
                "the values are on a GPU: log values.cpu(), or better torch.histogram's result as "
                "runwire.Histogram(edges, counts); runwire never waits for a GPU by itself"
            )
        values = values.detach()
        # bfloat16 is no type that numpy knows.
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
        return values.numpy()
    is_numpy = type(values).__module__.partition(".")[0] == "numpy"
    return values if is_numpy and hasattr(values, "reshape") else None


def _counted(values: Iterable[Any], bins: int) -> Histogram:
    finite = [number for value in values if math.isfinite(number := float(value))]
    if not finite:
        raise ArtifactError(_NOTHING)
    low, high = _spread(min(finite), max(finite))
    counts = [0] * bins
    for number in finite:
        counts[min(bins - 1, int((number - low) / (high - low) * bins))] += 1
    edges = [low + (high - low) * (index / bins) for index in range(bins)]
    return Histogram([*edges, high], counts)


def _spread(low: float, high: float) -> tuple[float, float]:
    if not math.isfinite(high - low):
        raise ArtifactError("the values span more than a double can say: log them scaled")
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _count(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ArtifactError(f"count {value!r} of a histogram: counts are finite and not negative")
    # Whole doubles beyond that have hundreds of digits as int.
    return int(number) if number.is_integer() and number < 2**53 else number
