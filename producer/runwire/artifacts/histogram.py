"""Histograms: distributions of many values as a few counts, recorded like a text."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from runwire.errors import ArtifactError
from runwire_disk.interrupts import reraise_interrupt

__all__ = ["BINS", "Histogram"]

BINS: Final = 64
# Two numbers of up to 25 characters each have to fit the 64 KiB of a text.
BINS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between edges. Shapes: n counts, n + 1 rising edges.

    It is made in a training loop, outside the guard: `trouble` is why it is invalid, and raised
    when it is logged.
    """

    edges: Sequence[float]
    counts: Sequence[float]
    trouble: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.trouble:
            return
        try:
            object.__setattr__(self, "edges", [float(edge) for edge in self.edges])
            object.__setattr__(self, "counts", [_count(count) for count in self.counts])
            _check(self.edges, self.counts)
        except Exception as error:
            object.__setattr__(self, "trouble", _explain(error))

    @classmethod
    def of(cls, values: Any, bins: int = BINS) -> Histogram:
        """Count values, or an array or CPU tensor of any shape; NaN and infinities are left out."""
        try:
            return _histogram(values, bins)
        except Exception as error:
            return cls((), (), _explain(error))

    def as_json(self) -> str:
        """Return {"edges": […], "counts": […]}, as `v_histograms` reads it.

        Raises: ArtifactError when it is invalid.
        """
        if self.trouble:
            raise ArtifactError(self.trouble)
        return json.dumps({"edges": self.edges, "counts": self.counts}, separators=(",", ":"))


_NOTHING: Final = "a histogram needs at least one finite value"
# An edge has to differ from the next one after both were rounded.
_ULPS_PER_BIN: Final = 4


def _explain(error: Exception) -> str:
    reraise_interrupt(error)
    is_ours = isinstance(error, ArtifactError)
    return str(error) if is_ours else f"a histogram is made of numbers: {error!r}"


def _check(edges: Sequence[float], counts: Sequence[float]) -> None:
    bins = len(counts)
    if len(edges) != bins + 1 or not 1 <= bins <= BINS_MAX:
        raise ArtifactError(
            f"a histogram has 1 to {BINS_MAX} counts and one edge more; got "
            f"{bins} counts and {len(edges)} edges"
        )
    rising = all(a < b for a, b in itertools.pairwise(edges))
    if not rising or not all(map(math.isfinite, edges)):
        raise ArtifactError("the edges of a histogram are finite and rise from first to last")


def _histogram(values: Any, bins: int) -> Histogram:
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
    low, high = _spread(float(flat.min()), float(flat.max()), bins)
    counts, edges = numpy.histogram(flat, bins=bins, range=(low, high))
    return Histogram(edges.tolist(), counts.tolist())


def _array(values: Any) -> Any:
    """Return an array with numpy's methods, None for plain sequences."""
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


def _counted(values: Any, bins: int) -> Histogram:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ArtifactError(
            f"a histogram takes numbers in a list, an array or a tensor, not a "
            f"{type(values).__name__}"
        )
    finite = [number for value in values if math.isfinite(number := _number(value))]
    if not finite:
        raise ArtifactError(_NOTHING)
    low, high = _spread(min(finite), max(finite), bins)
    counts = [0] * bins
    for number in finite:
        counts[min(bins - 1, int((number - low) / (high - low) * bins))] += 1
    edges = [low + (high - low) * (index / bins) for index in range(bins)]
    return Histogram([*edges, high], counts)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ArtifactError(
            f"a {type(value).__name__} among the values of a histogram is no number: give numbers, "
            "those of nested lists in one"
        ) from None


def _spread(low: float, high: float, bins: int) -> tuple[float, float]:
    """Return the ends of the edges: around equal values, and around those too close for bins."""
    if not math.isfinite(high - low):
        raise ArtifactError("the values span more than a double can say: log them scaled")
    least = _ULPS_PER_BIN * bins * math.ulp(max(abs(low), abs(high)))
    if high - low >= least:
        return low, high
    if low == high and least <= 1.0:
        return low - 0.5, high + 0.5
    largest = sys.float_info.max
    bottom = max(low - (least - (high - low)) / 2, -largest)
    top = min(bottom + least, largest)
    return top - least, top


def _count(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ArtifactError(f"count {value!r} of a histogram: counts are finite and not negative")
    # Whole doubles beyond that have hundreds of digits as int.
    return int(number) if number.is_integer() and number < 2**53 else number
