"""One series of a million points as 2,000 buckets through the public views, warm.

Floor: the same aggregation over the base table by its key, without any view.
"""

from __future__ import annotations

import time
from collections.abc import Callable

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
    """Median of warm runs in ms."""
    query()
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        query()
        found.append((time.perf_counter() - start) * 1000)
    return median(found)


def fill(root: object) -> int:
    """A long series, short neighbours in the same run, and another run."""
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
        key = client.query(
            "SELECT DISTINCT toString(run_key), toString(metric_id) FROM runwire.metrics "
            f"WHERE {BY_NAME}"
        )
        print(f"rows of the key: {len(key.result_rows)}")
        floor = warm_ms(
            lambda: client.query(BUCKETS.format(table="runwire.metrics", where=BY_NAME))
        )
        for view in ("v_series", "v_metrics"):
            text = BUCKETS.format(table=f"runwire.{view}", where=BY_NAME)
            value = warm_ms(lambda text=text: client.query(text))
            figure(
                f"10^6 points -> 2,000 buckets through {view}", value, "ms",
                floor="base table without FINAL or view", ratio=value / floor, bar="<= 50 ms",
            )  # fmt: skip


if __name__ == "__main__":
    main()
