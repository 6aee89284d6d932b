"""Cost of one `log()` to its caller: tight loop, paced loop, points per second, odd shapes.

Floors in the same run: appending the dict to a deque, one `os.write` of the same bytes, arithmetic
in Python that takes about as long (what the machine does to p99), and `log()` of 10 floats.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import runwire
from measure import figure, machine, median, percentile

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

CALLS = 60_000
POINTS = 10
ROUNDS = 11
PACED_CALLS = 3_000
SHAPE_CALLS = 3_000
SPINS = 50  # additions, about as long as one call

Data = dict[str, Any]


def latencies(call: Callable[[Data], Any], data: Iterator[Data], n: int) -> list[int]:
    """Return ascending durations of `n` calls in ns, each including the cost of the clock."""
    clock, found = time.perf_counter_ns, []
    for values in itertools.islice(data, n):
        start = clock()
        call(values)
        found.append(clock() - start)
    return sorted(found)


def paced(call: Callable[[Data], Any], data: Data) -> list[int]:
    """Return the same for calls between 1 ms steps of pure Python, when caches are cold."""
    clock, found = time.perf_counter_ns, []
    for _ in range(PACED_CALLS):
        until = clock() + 1_000_000
        while clock() < until:
            pass
        start = clock()
        call(data)
        found.append(clock() - start)
    return sorted(found)


def per_call(call: Callable[[Data], Any], data: Data) -> float:
    """Return the mean ns per call, without a clock inside the loop."""
    start = time.perf_counter_ns()
    for _ in range(CALLS):
        call(data)
    return (time.perf_counter_ns() - start) / CALLS


def spin(_: Data) -> None:
    """Do nothing of use for about as long as one call."""
    for number in range(SPINS):
        number + 1


def names(shape: str) -> list[str]:
    """Return the names of a shape's metrics; each shape has its own."""
    return [f"{shape}/metric_{index}" for index in range(POINTS)]


def shapes() -> dict[str, tuple[Iterator[Data], str]]:
    """Return calls that are not of 10 floats, by their name, each with its bar for p50."""
    floats = dict.fromkeys(names("mixed"), 1.1)
    found: dict[str, tuple[Iterator[Data], str]] = {
        "10 0-d arrays": (itertools.repeat({n: np.array(1.1) for n in names("arrays")}), ""),
        "a new key set each call": (
            ({**dict.fromkeys(names("new")[1:], 1.1), f"new/{n}": 1.1} for n in itertools.count()),
            "<= 12 us",
        ),
    }
    if torch is not None:
        data = {**floats, "mixed/metric_0": torch.tensor(1.1)}
        found["1 tensor, 9 floats"] = (itertools.repeat(data), "<= 5 us")
    return found


def odd_shapes(log: Callable[[Data], None], data: Data) -> None:
    """Print p50 of each shape, and its ratio to that of 10 floats between its rounds."""
    for shape, (calls, bar) in shapes().items():
        rounds = []
        for _ in range(ROUNDS):
            plain = latencies(log, itertools.repeat(data), SHAPE_CALLS)
            rounds.append((latencies(log, calls, SHAPE_CALLS), plain))
        p50, plain50 = (
            median([percentile(one[side], 0.5) for one in rounds]) / 1000 for side in (0, 1)
        )
        figure(
            f"log() p50, {shape}", p50, "us", floor="log() of 10 floats", ratio=p50 / plain50,
            bar=bar,
        )  # fmt: skip


def main() -> None:
    print(machine())
    data = {name: index * 1.1 for index, name in enumerate(names("train"))}
    kept: deque[Data] = deque(maxlen=1000)
    with tempfile.TemporaryDirectory() as folder:
        fd = os.open(Path(folder) / "floor", os.O_WRONLY | os.O_CREAT)
        payload = bytes(144)
        run = runwire.init(
            "bench", dir=folder, settings=runwire.Settings(agent="none", quota_bytes=2**36)
        )
        log = run.log
        for _ in range(2000):
            log(data)
        # Floors and log() take turns, so that other load on the machine affects them alike.
        rounds = []
        for _ in range(ROUNDS):
            tight, clock, spun = (
                latencies(call, itertools.repeat(data), CALLS)
                for call in (log, lambda _: None, spin)
            )
            p50, p99 = (percentile(tight, q) - percentile(clock, 0.5) for q in (0.5, 0.99))
            spun99 = percentile(spun, 0.99) - percentile(clock, 0.5)
            floors = (per_call(kept.append, data), per_call(lambda _: os.write(fd, payload), data))
            rounds.append((*floors, per_call(log, data), p50, p99, spun99))
        append, write, cost, p50, p99, spun99 = (
            median(column) for column in zip(*rounds, strict=True)
        )
        spaced = paced(log, data)
        figure("log() mean, tight", cost / 1000, "us", floor="deque.append", ratio=cost / append)
        figure("log() mean, tight", cost / 1000, "us", floor="os.write", ratio=cost / write)
        figure(
            "log() p50, tight", p50 / 1000, "us", floor="deque.append", ratio=p50 / append,
            bar="<= 2 us",
        )  # fmt: skip
        figure(
            "log() p99, tight", p99 / 1000, "us", floor="p99 of Python arithmetic",
            ratio=p99 / spun99, bar="<= 8 us",
        )  # fmt: skip
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            value = percentile(spaced, share)
            figure(
                f"log() {name}, 1 ms steps", value / 1000, "us", floor="deque.append",
                ratio=value / append,
            )  # fmt: skip
        figure(
            "accepted points/s", POINTS / cost * 1e9, "1/s", floor="os.write of the same bytes",
            ratio=write / cost, bar=">= 4 M",
        )  # fmt: skip
        odd_shapes(log, data)
        os.close(fd)
        run.finish()


if __name__ == "__main__":
    main()
