"""Shared by all benchmarks: percentiles, one line per figure, the machine's description."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of ascending values."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def three_digits(value: float) -> str:
    """Return the value with three significant digits: 0.0785, 1.94, 67.5, 4,400,000."""
    rounded = float(f"{value:.3g}")
    decimals = 2 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{rounded:,.{max(0, decimals)}f}"


def figure(name: str, value: float, unit: str, *, floor: str, ratio: float, bar: str = "") -> None:
    """Print one figure with its ratio to a floor of the same run, with three digits each."""
    line = {"figure": name, "value": float(f"{value:.3g}"), "unit": unit}
    line |= {"floor": floor, "ratio": float(f"{ratio:.3g}"), "bar": bar}
    print(json.dumps(line), flush=True)


def median(values: Sequence[float]) -> float:
    """Return the median of several runs."""
    return statistics.median(values)


def machine() -> str:
    """Return one line that describes the machine."""
    model = platform.machine()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as info:
            names = [line.partition(":")[2].strip() for line in info if "model name" in line]
            model = names[0] if names else model
    except OSError:
        pass
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} x {model}, {system}"
