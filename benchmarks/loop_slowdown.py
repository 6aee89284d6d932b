"""How much longer a loop of 1 ms pure-Python steps takes when each step logs 10 floats.

The work of a step is a fixed amount of Python, calibrated to 1 ms, so that contention shows. The
floor is the same loop without logging, run before and after and interleaved in the same process;
the agent watches and, on the second pass, the engine and worker drain the spool on the same cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import runwire
from embedded import engine, worker
from measure import figure, machine, median

STEPS = 1500
ROUNDS = 7


def busy(iterations: int) -> float:
    total = 0.0
    for i in range(iterations):
        total += i * 0.5
    return total


def calibrated() -> int:
    """Iterations of `busy` that take 1 ms."""
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
    """Median over interleaved pairs of logged time / plain time - 1."""
    ratios = []
    for _ in range(ROUNDS):
        before = loop(iterations, None)
        logged = loop(iterations, log)
        after = loop(iterations, None)
        ratios.append(logged / ((before + after) / 2) - 1)
    return median(ratios)


def main() -> None:
    print(machine())
    iterations = calibrated()
    with engine() as (root, _):
        run = runwire.init("bench", dir=root)
        noise = slowdown(iterations, lambda _: None)
        alone = slowdown(iterations, run.log)
        with worker(root):
            time.sleep(2)
            together = slowdown(iterations, run.log)
        run.finish()
    plain = "same loop without logging"
    figure("loop slowdown, empty call", noise * 100, "%", floor=plain, ratio=1 + noise)
    figure("loop slowdown, agent", alone * 100, "%", floor=plain, ratio=1 + alone, bar="<= 2 %")
    figure(
        "loop slowdown, agent + worker + engine", together * 100, "%", floor=plain,
        ratio=1 + together, bar="<= 2 %",
    )  # fmt: skip


if __name__ == "__main__":
    main()
