"""Cost of 160 points/s through Kafka: CPU and disk writes of engine, worker and agent.

Sixteen trainers log ten floats once a second. Floor: the same stack while nobody logs.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

import psutil

import runwire
from agent_cost import agent
from brokers import topics
from embedded import engine, worker
from measure import figure, machine

WRITERS, NAMES = 16, 10
SETTLE_S, MEASURE_S = 8.0, 30.0
COUNT = "SELECT count() FROM runwire.metrics"


def train(root: str, rank: int) -> None:
    """Log once a second until the measurement is over, at a phase of its own."""
    settings = runwire.Settings(agent="none")
    run = runwire.init("bench", run_id=f"trickle-{rank}", dir=root, settings=settings)
    time.sleep(rank / WRITERS)
    for step in range(int(SETTLE_S + MEASURE_S) + 60):
        run.log({f"metric/{n}": step + n / 8 for n in range(NAMES)}, step)
        time.sleep(1.0)


def used(processes: list[psutil.Process]) -> list[tuple[float, int]]:
    """Return CPU seconds and bytes written of each process so far."""
    return [(sum(p.cpu_times()[:2]), p.io_counters().write_bytes) for p in processes]


def measure(processes: list[psutil.Process]) -> list[tuple[float, float]]:
    """Return the share of a core and the bytes per second of each process."""
    begin, begin_s = used(processes), time.perf_counter()
    time.sleep(MEASURE_S)
    took_s = time.perf_counter() - begin_s
    return [
        ((cpu - cpu_before) / took_s, (written - written_before) / took_s)
        for (cpu, written), (cpu_before, written_before) in zip(used(processes), begin, strict=True)
    ]


def trickle(root: Path, client: object, environ: dict[str, str]) -> None:
    """Print the figures of the stack idle and under the trickle."""
    (served,) = (
        p for p in psutil.Process().children() if "engine_process" in " ".join(p.cmdline())
    )
    with worker(root, **environ) as process, agent(root, environ) as shipping:
        stack = [served, psutil.Process(process.pid), shipping]
        time.sleep(SETTLE_S)
        idle = measure(stack)
        os.environ.update(environ)
        trainers = [
            multiprocessing.get_context("spawn").Process(
                target=train, args=(str(root), rank), daemon=True
            )
            for rank in range(WRITERS)
        ]
        for trainer in trainers:
            trainer.start()
        while client.query(COUNT).first_row[0] < WRITERS * NAMES * SETTLE_S:  # type: ignore[attr-defined]
            time.sleep(0.5)
        before = client.query(COUNT).first_row[0]  # type: ignore[attr-defined]
        busy = measure(stack)
        points = client.query(COUNT).first_row[0] - before  # type: ignore[attr-defined]
        for trainer in trainers:
            trainer.kill()
    for name, (cpu, written), (idle_cpu, idle_written) in zip(
        ("engine", "worker", "agent"), busy, idle, strict=True
    ):
        figure(f"trickle: CPU of the {name}", 100 * cpu, "% of a core", floor="idle",
               ratio=cpu / max(idle_cpu, 1e-4))  # fmt: skip
        figure(f"trickle: writes of the {name}", written / 1e6, "MB/s", floor="idle",
               ratio=written / max(idle_written, 1.0))  # fmt: skip
    cpu, written = (sum(part) for part in zip(*busy, strict=True))
    idle_cpu, idle_written = (sum(part) for part in zip(*idle, strict=True))
    figure("trickle: CPU in all", 100 * cpu, "% of a core", floor="idle",
           ratio=cpu / max(idle_cpu, 1e-4), bar="<= 15 %")  # fmt: skip
    figure("trickle: writes in all", written / 1e6, "MB/s", floor="idle",
           ratio=written / max(idle_written, 1.0), bar="<= 0.5 MB/s")  # fmt: skip
    print(f"{points / MEASURE_S:.0f} points/s", file=sys.stderr)


def main() -> None:
    print(machine())
    with topics() as environ, engine() as (root, client):
        trickle(root, client, environ)


if __name__ == "__main__":
    main()
