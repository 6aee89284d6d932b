"""Seconds from the return of `log()` until SQL sees the point, with default settings.

Floor: the round trip of the same query when the point is already stored.
"""

from __future__ import annotations

import os
import random
import time

from clickhouse_connect.driver.client import Client

import runwire
from brokers import topics
from embedded import engine, worker
from measure import figure, machine, percentile

SAMPLES = 60


def measure(client: Client, run: runwire.Run, label: str) -> None:
    """Log at random moments and query until the point is visible."""
    rng = random.Random(1)
    run.log({"x": 0.0}, 0)
    query = f"SELECT count(), max(step) FROM runwire.metrics WHERE run_id = '{run.id}'"
    while not client.query(query).first_row[0]:
        time.sleep(0.1)
    delays, trips = [], []
    for step in range(1, SAMPLES + 1):
        time.sleep(rng.random())  # hit every phase of the worker's interval
        run.log({"x": float(step)}, step)
        start = time.perf_counter()
        while client.query(query).first_row[1] < step:
            time.sleep(0.005)
        delays.append(time.perf_counter() - start)
        start = time.perf_counter()
        client.query(query)
        trips.append(time.perf_counter() - start)
    delays.sort()
    trips.sort()
    trip = percentile(trips, 0.5)
    for name, share, bar in (("p50", 0.5, "<= 0.6 s"), ("p99", 0.99, "<= 1.1 s")):
        value = percentile(delays, share)
        figure(
            f"freshness {name}, {label}", value, "s", floor="one query", ratio=value / trip, bar=bar
        )


def main() -> None:
    print(machine())
    with engine() as (root, client):
        with worker(root):
            run = runwire.init("bench", run_id="fresh", dir=root)
            measure(client, run, "embedded")
            run.finish()
        with topics() as environ, worker(root, **environ):
            os.environ.update(environ)
            run = runwire.init("bench", run_id="fresh-kafka", dir=root)
            measure(client, run, "Kafka")
            run.finish(timeout=10)
            for name in environ:
                del os.environ[name]


if __name__ == "__main__":
    main()
