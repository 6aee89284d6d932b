"""One series of a million points as 2,000 buckets through the public views, warm.

Floor: the same aggregation over the base table by its key, without any view.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from clickhouse_connect.driver.client import Client

import runwire
from embedded import engine, worker
from measure import figure, machine, median

POINTS = 1_000_000
OTHERS = 20  # other series of the same run, and another run, that must not be read
ROUNDS = 15
BUCKETS = (
    "SELECT intDiv(step, 500) AS bucket, min(value), avg(value), max(value) FROM {table} "
    "WHERE {where} GROUP BY bucket ORDER BY bucket"
)
BY_NAME = "project = 'bench' AND run_id = 'series' AND metric = 'loss'"


def warm_ms(query: Callable[[], object]) -> float:
    """Return the median of warm runs in ms."""
    query()
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        query()
        found.append((time.perf_counter() - start) * 1000)
    return median(found)


def fill(root: object) -> int:
    """Log a long series, short neighbours in the same run, and another run."""
    settings = runwire.Settings(agent="none", quota_bytes=2**36)
    with runwire.init("bench", run_id="series", dir=str(root), settings=settings) as run:
        for step in range(POINTS):
            run.log({"loss": 1.0 / (step + 1)}, step)
        for step in range(20_000):
            run.log({f"other/{i}": float(step + i) for i in range(OTHERS)}, step)
    with runwire.init("bench", run_id="other", dir=str(root), settings=settings) as run:
        for step in range(200_000):
            run.log({"loss": float(step)}, step)
    return POINTS + 20_000 * OTHERS + 200_000


def main() -> None:
    print(machine())
    with engine() as (root, client):
        total = fill(root)
        with worker(root):
            while client.query("SELECT sum(points) FROM runwire.batches").first_row[0] < total:
                time.sleep(0.2)
        compare(client, "just stored", bar="")
        client.command("OPTIMIZE TABLE runwire.metrics FINAL", settings={"max_execution_time": 300})
        compare(client, "parts merged", bar="<= 50 ms")


def compare(client: Client, state: str, *, bar: str) -> None:
    """Run the query on both views and on the table below them."""
    found = {
        table: warm_ms(lambda table=table: client.query(BUCKETS.format(table=table, where=BY_NAME)))
        for table in ("runwire.metrics", "runwire.v_series", "runwire.v_metrics")
    }
    floor = found.pop("runwire.metrics")
    for view, value in found.items():
        name = view.removeprefix("runwire.")
        figure(
            f"10^6 points -> 2,000 buckets through {name}, {state}", value, "ms",
            floor="base table without FINAL or view", ratio=value / floor, bar=bar,
        )  # fmt: skip


if __name__ == "__main__":
    main()
