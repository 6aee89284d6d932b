"""Slowdown of a loop of 1 ms pure-Python steps when each step logs 10 floats.

The work of a step is a fixed amount of Python, calibrated to 1 ms, so that contention is visible.
The floor is the same loop without logging; blocks of both alternate in one process, so other load
on the machine affects both alike. The agent watches; on the second pass, engine and worker drain
the spool on the same cores. The agent's share of a core is a separate figure.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import runwire
from embedded import engine, worker
from measure import figure, machine, median

STEPS = 100
PAIRS = 120


def busy(iterations: int) -> float:
    total = 0.0
    for i in range(iterations):
        total += i * 0.5
    return total


def calibrated() -> int:
    """Return the iterations of `busy` that take 1 ms."""
    best = min(_timed(lambda: busy(20_000)) for _ in range(50))
    return int(20_000 * 0.001 / best)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def loop(iterations: int, log: Callable[[dict[str, float]], None] | None) -> float:
    data = {f"train/metric_{i}": i * 1.1 for i in range(10)}
    start = time.perf_counter()
    for _ in range(STEPS):
        busy(iterations)
        if log is not None:
            log(data)
    return time.perf_counter() - start


def slowdown(iterations: int, log: Callable[[dict[str, float]], None]) -> float:
    """Median over alternating blocks of logged time / mean of the plain blocks around it - 1."""
    ratios = []
    before = loop(iterations, None)
    for _ in range(PAIRS):
        logged = loop(iterations, log)
        after = loop(iterations, None)
        ratios.append(logged / ((before + after) / 2) - 1)
        before = after
    return median(ratios)


def cpu_s(root: Path) -> float:
    """Return the CPU seconds of the agent: of all processes with `root` on their command line."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if str(root).encode() not in stat.with_name("cmdline").read_bytes():
                continue
            fields = stat.read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:  # it ended meanwhile
            pass
    return total


def main() -> None:
    print(machine())
    iterations = calibrated()
    with tempfile.TemporaryDirectory() as folder:
        run = runwire.init("bench", dir=folder)
        noise = slowdown(iterations, lambda _: None)
        start, used = time.perf_counter(), cpu_s(Path(folder))
        alone = slowdown(iterations, run.log)
        share = (cpu_s(Path(folder)) - used) / (time.perf_counter() - start)
        run.finish()
    with engine() as (root, _):
        run = runwire.init("bench", dir=root)
        with worker(root):
            time.sleep(2)
            together = slowdown(iterations, run.log)
        run.finish()
    plain = "same loop without logging"
    figure("loop slowdown, empty call", noise * 100, "%", floor=plain, ratio=1 + noise)
    figure("loop slowdown, agent", alone * 100, "%", floor=plain, ratio=1 + alone, bar="<= 2 %")
    figure("agent's share of a core", share * 100, "%", floor="one core", ratio=share)
    figure(
        "loop slowdown, agent + worker + engine", together * 100, "%", floor=plain,
        ratio=1 + together, bar="<= 2 %",
    )  # fmt: skip


if __name__ == "__main__":
    main()
