"""Points/s from a full spool into ClickHouse, and bytes per stored point.

Floor: INSERT SELECT of the same rows inside the engine.
"""

from __future__ import annotations

import math
import random
import resource
import time

import runwire
from embedded import engine, worker
from measure import figure, machine

CALLS = 400_000
POINTS = 10


def fill(root: object) -> int:
    """Log a realistic run into the spool: noisy losses, smooth rates, counters."""
    rng = random.Random(1)
    settings = runwire.Settings(agent="none", quota_bytes=2**36)
    with runwire.init("bench", run_id="ingest", dir=str(root), settings=settings) as run:
        for step in range(CALLS):
            loss = 3.0 * math.exp(-step / 1e5) + rng.gauss(0, 0.05)
            run.log(
                {
                    "train/loss": loss,
                    "train/perplexity": math.exp(loss),
                    "train/grad_norm": abs(rng.gauss(1, 0.2)),
                    "train/lr": 3e-4 * (1 - step / CALLS),
                    "train/tokens": step * 4096.0,
                    "train/tokens_per_s": 5e4 + rng.gauss(0, 500),
                    "train/epoch": step // 10_000,
                    "val/loss": round(loss * 1.05, 4),
                    "progress": step / CALLS,
                    "eta_s": (CALLS - step) * 0.02,
                },
                step,
            )
    return CALLS * POINTS


def main() -> None:
    print(machine())
    with engine() as (root, client):
        total = fill(root)
        start = time.perf_counter()
        with worker(root):
            while client.query("SELECT sum(points) FROM runwire.batches").first_row[0] < total:
                time.sleep(0.05)
            wall = time.perf_counter() - start
        cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
        client.command("CREATE TABLE runwire.floor AS runwire.metrics")
        start = time.perf_counter()
        client.command("INSERT INTO runwire.floor SELECT * FROM runwire.metrics")
        floor = time.perf_counter() - start
        rate, fastest = total / wall, total / floor
        figure(
            "spool -> ClickHouse points/s, start of the worker included", rate, "1/s",
            floor="INSERT SELECT inside the engine", ratio=rate / fastest,
        )  # fmt: skip
        print(f"worker CPU s (user, system): {cpu.ru_utime:.2f}, {cpu.ru_stime:.2f}")
        client.command("OPTIMIZE TABLE runwire.metrics FINAL", settings={"max_execution_time": 300})
        size = client.query(
            "SELECT sum(data_compressed_bytes) FROM system.parts WHERE database = 'runwire' "
            "AND table = 'metrics' AND active"
        ).first_row[0]
        figure(
            "bytes per stored point", size / total, "B", floor="a raw double (8 B)",
            ratio=size / total / 8, bar="<= 6",
        )  # fmt: skip


if __name__ == "__main__":
    main()
