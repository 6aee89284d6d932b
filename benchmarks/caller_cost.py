"""Cost of one `log()` of 10 floats to its caller: tight loop, paced loop, points per second.

Floors in the same run: appending the dict to a deque, and one `os.write` of the same bytes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import runwire
from measure import figure, machine, median, percentile

CALLS = 60_000
POINTS = 10
ROUNDS = 11
PACED_CALLS = 3_000


def latencies(call: Callable[[dict[str, float]], Any], data: dict[str, float], n: int) -> list[int]:
    """Return ascending durations of `n` calls in ns, each including the cost of the clock."""
    clock, found = time.perf_counter_ns, []
    for _ in range(n):
        start = clock()
        call(data)
        found.append(clock() - start)
    return sorted(found)


def paced(call: Callable[[dict[str, float]], Any], data: dict[str, float]) -> list[int]:
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


def per_call(call: Callable[[dict[str, float]], Any], data: dict[str, float]) -> float:
    """Return the mean ns per call, without a clock inside the loop."""
    start = time.perf_counter_ns()
    for _ in range(CALLS):
        call(data)
    return (time.perf_counter_ns() - start) / CALLS


def main() -> None:
    print(machine())
    data = {f"train/metric_{i}": i * 1.1 for i in range(POINTS)}
    kept: deque[dict[str, float]] = deque(maxlen=1000)
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
            tight, clock = latencies(log, data, CALLS), latencies(lambda _: None, data, CALLS)
            p50, p99 = (percentile(tight, q) - percentile(clock, 0.5) for q in (0.5, 0.99))
            floors = (per_call(kept.append, data), per_call(lambda _: os.write(fd, payload), data))
            rounds.append((*floors, per_call(log, data), p50, p99))
        append, write, cost, p50, p99 = (median(column) for column in zip(*rounds, strict=True))
        spaced = paced(log, data)
        figure("log() mean, tight", cost / 1000, "us", floor="deque.append", ratio=cost / append)
        figure("log() mean, tight", cost / 1000, "us", floor="os.write", ratio=cost / write)
        figure(
            "log() p50, tight", p50 / 1000, "us", floor="deque.append", ratio=p50 / append,
            bar="<= 2 us",
        )  # fmt: skip
        figure(
            "log() p99, tight", p99 / 1000, "us", floor="deque.append", ratio=p99 / append,
            bar="<= 10 us",
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
        os.close(fd)
        run.finish()


if __name__ == "__main__":
    main()
