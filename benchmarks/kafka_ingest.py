"""Points/s from a real Kafka broker into ClickHouse, with the CPU of the worker.

Records contain 1,000 points, like those of a busy trainer. Floors in the same run: inserting the
same rows as prepared Native blocks, and consuming the messages without decoding them.
"""

from __future__ import annotations

import resource
import time
import uuid

import numpy as np
from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, Producer

from brokers import topics
from embedded import engine, worker
from measure import figure, machine
from runwire_consumers.clickhouse.metric_rows import metric_rows
from runwire_consumers.clickhouse.points import sort_points
from runwire_consumers.core.batch import decode_ahead
from runwire_consumers.core.source import Record
from runwire_schemas import codec
from runwire_schemas.events import MetricBatch
from runwire_schemas.metric_columns import MetricColumns
from runwire_schemas.topics import topic_name

RECORDS = 8_000
CALLS, WIDTH = 100, 10
WRITERS = 16


def value(writer: int, number: int, rng: np.random.Generator) -> bytes:
    """Return one record of 1,000 points: noisy metrics of one writer."""
    first = number * CALLS
    steps = list(range(first, first + CALLS))
    batch = MetricBatch(
        project="bench",
        run_id=f"run-{writer % 4}",
        attempt="a",
        writer=f"{writer:032x}",
        rank=writer,
        batch_seq=number,
        names=[f"train/metric_{i}" for i in range(WIDTH)],
        call_seq=steps,
        call_step=steps,
        call_at_ms=[1_700_000_000_000 + 20 * step for step in steps],
        call_n=[WIDTH] * CALLS,
        name_idx=list(range(WIDTH)) * CALLS,
        value=rng.normal(size=CALLS * WIDTH).tolist(),
    )
    return codec.encode(batch)


def produce(bootstrap: str, topic: str) -> list[bytes]:
    """Fill the topic and return the values."""
    rng = np.random.default_rng(1)
    producer = Producer(
        {"bootstrap.servers": bootstrap, "enable.idempotence": True, "compression.type": "zstd",
         "linger.ms": 50, "batch.size": 1_000_000, "log_level": 3}
    )  # fmt: skip
    values = [value(n % WRITERS, n // WRITERS, rng) for n in range(RECORDS)]
    for number, data in enumerate(values):
        key = f"{number % WRITERS:032x}"
        producer.produce(topic, data, key, headers=[("points", b"1000")])
        producer.poll(0)
    producer.flush(60)
    return values


def consume_only(bootstrap: str, topic: str) -> float:
    """Return the seconds to read the topic without decoding."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "log_level": 3,
         "auto.offset.reset": "earliest", "fetch.queue.backoff.ms": 50}
    )  # fmt: skip
    consumer.subscribe([topic])
    seen, start = 0, 0.0
    while seen < RECORDS:
        found = consumer.consume(200, 0.5)
        if found and not start:
            start = time.perf_counter()
        seen += len(found)
    spent = time.perf_counter() - start
    consumer.close()
    return spent


def main() -> None:
    print(machine())
    total = RECORDS * CALLS * WIDTH
    count = "SELECT count() FROM runwire.metrics"
    with topics() as environ, engine() as (root, client):
        bootstrap = environ["RUNWIRE_KAFKA_BOOTSTRAP_SERVERS"]
        topic = topic_name("metric", environ["RUNWIRE_KAFKA_TOPIC_PREFIX"])
        values = produce(bootstrap, topic)
        reading = consume_only(bootstrap, topic)
        with worker(root, **environ):
            while (first := client.query(count).first_row[0]) == 0:
                time.sleep(0.02)
            start = time.perf_counter()
            while client.query(count).first_row[0] < total:
                time.sleep(0.2)  # each query takes 2 ms of the cores that are measured
            wall = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime
        insert = raw_insert(client, values[:500])
    rate = (total - first) / wall
    figure("Kafka -> ClickHouse points/s", rate, "1/s", floor="raw Native insert",
           ratio=rate * insert, bar=">= 2 M")  # fmt: skip
    figure("Kafka -> ClickHouse points/s, against reading alone", rate, "1/s",
           floor="consume without decoding", ratio=rate / (total / reading))  # fmt: skip
    figure("worker points per CPU second, start included", total / cpu, "1/s",
           floor="raw Native insert", ratio=total / cpu * insert)  # fmt: skip


def raw_insert(client: Client, values: list[bytes]) -> float:
    """Return the seconds per point to insert prepared blocks into a copy of the table."""
    records = [Record("metric", "p", n, n, 0, data) for n, data in enumerate(values)]
    rows = [row for row in decode_ahead(records) if isinstance(row, MetricColumns)]
    block = bytes(metric_rows(sort_points(rows)))
    client.command("CREATE TABLE runwire.floor AS runwire.metrics")
    settings = {
        "async_insert": 0,
        "optimize_on_insert": 0,
        "allow_suspicious_low_cardinality_types": 1,
    }
    start = time.perf_counter()
    for _ in range(4):
        client.raw_insert("runwire.floor", insert_block=block, fmt="Native", settings=settings)
    return (time.perf_counter() - start) / (4 * len(values) * CALLS * WIDTH)


if __name__ == "__main__":
    main()
