"""What all benchmarks share: percentiles, one line per figure, the machine's description."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile of ascending values."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def figure(name: str, value: float, unit: str, *, floor: str, ratio: float, bar: str = "") -> None:
    """Print one figure with its ratio against a floor of the same run."""
    line = {"figure": name, "value": round(value, 4), "unit": unit}
    line |= {"floor": floor, "ratio": round(ratio, 3), "bar": bar}
    print(json.dumps(line), flush=True)


def median(values: Sequence[float]) -> float:
    """Median of several runs."""
    return statistics.median(values)


def machine() -> str:
    """One line about where this ran."""
    model = platform.machine()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as info:
            names = [line.partition(":")[2].strip() for line in info if "model name" in line]
            model = names[0] if names else model
    except OSError:
        pass
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} x {model}, {system}"
