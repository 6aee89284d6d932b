"""Seconds from the return of `log()` until SQL sees the point, default settings.

Floor: the round trip of the same query when the point is already there.
"""

from __future__ import annotations

import random
import time

import runwire
from embedded import engine, worker
from measure import figure, machine, percentile

SAMPLES = 60


def main() -> None:
    print(machine())
    rng = random.Random(1)
    with engine() as (root, client), worker(root):
        run = runwire.init("bench", run_id="fresh", dir=root)
        run.log({"x": 0.0}, 0)
        query = "SELECT max(step) FROM runwire.metrics WHERE run_id = 'fresh'"
        while client.query(query).first_row[0] < 0:
            time.sleep(0.1)
        delays, trips = [], []
        for step in range(1, SAMPLES + 1):
            time.sleep(rng.random())  # hit every phase of the worker's interval
            run.log({"x": float(step)}, step)
            start = time.perf_counter()
            while client.query(query).first_row[0] < step:
                time.sleep(0.005)
            delays.append(time.perf_counter() - start)
            start = time.perf_counter()
            client.query(query)
            trips.append(time.perf_counter() - start)
        run.finish()
    delays.sort()
    trips.sort()
    trip = percentile(trips, 0.5)
    for name, share, bar in (("p50", 0.5, ""), ("p99", 0.99, "<= 3 s")):
        value = percentile(delays, share)
        figure(f"freshness {name}", value, "s", floor="one query", ratio=value / trip, bar=bar)


if __name__ == "__main__":
    main()
