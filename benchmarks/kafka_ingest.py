"""Points/s from a real Kafka broker into ClickHouse, and the worker's CPU per point, by record.

An agent looks every 0.2 s: a record holds 1,000 points of a busy trainer and 20 of one that makes
five steps a second. Floors in the same run: inserting the same rows, as they come, as prepared
Native blocks, and consuming the messages without decoding them.
"""

from __future__ import annotations

import resource
import time
import uuid
from dataclasses import dataclass

import numpy as np
from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, Producer

from brokers import topics
from embedded import engine, worker
from measure import figure, machine
from runwire_consumers.clickhouse import native
from runwire_consumers.clickhouse.points import join_rows
from runwire_consumers.clickhouse.rows import attempt_key, dictionary, writer_key
from runwire_consumers.core.batch import decode_ahead
from runwire_consumers.core.source import Record
from runwire_schemas import codec
from runwire_schemas.events import MetricBatch
from runwire_schemas.metric_columns import MetricColumns
from runwire_schemas.topics import topic_name

WIDTH = 10
COUNT = "SELECT count() FROM runwire.metrics"
LOOK_S = 0.2  # a look costs the engine some milliseconds


@dataclass(frozen=True)
class Shape:
    """The records of one run: calls of ten metrics in each, writers, and their number."""

    calls: int
    writers: int
    records: int

    @property
    def points(self) -> int:
        """Points of a record."""
        return self.calls * WIDTH


SHAPES = (Shape(100, 16, 8_000), Shape(10, 200, 40_000), Shape(2, 500, 100_000))


def value(shape: Shape, writer: int, number: int, values: list[float]) -> bytes:
    """Return one record: noisy metrics of one writer."""
    first = number * shape.calls
    steps = list(range(first, first + shape.calls))
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
        call_n=[WIDTH] * shape.calls,
        name_idx=list(range(WIDTH)) * shape.calls,
        value=values,
    )
    return codec.encode(batch)


def produce(bootstrap: str, topic: str, shape: Shape, records: range) -> list[bytes]:
    """Fill the topic and return the values."""
    rng = np.random.default_rng(1)
    producer = Producer(
        {"bootstrap.servers": bootstrap, "enable.idempotence": True, "compression.type": "zstd",
         "linger.ms": 50, "batch.size": 1_000_000, "log_level": 3,
         "queue.buffering.max.messages": 1_000_000}
    )  # fmt: skip
    noise = rng.normal(size=(64, shape.points)).tolist()
    values = [value(shape, n % shape.writers, n // shape.writers, noise[n % 64]) for n in records]
    for number, data in zip(records, values, strict=True):
        key = f"{number % shape.writers:032x}"
        producer.produce(topic, data, key, headers=[("points", str(shape.points).encode())])
        producer.poll(0)
    producer.flush(60)
    return values


def consume_only(bootstrap: str, topic: str, records: int) -> float:
    """Return the seconds to read the topic without decoding."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "log_level": 3,
         "auto.offset.reset": "earliest", "fetch.queue.backoff.ms": 50}
    )  # fmt: skip
    consumer.subscribe([topic])
    seen, start = 0, 0.0
    while seen < records:
        found = consumer.consume(200, 0.5)
        if found and not start:
            start = time.perf_counter()
        seen += len(found)
    spent = time.perf_counter() - start
    consumer.close()
    return spent


def wait_for(client: Client, points: int) -> int:
    """Return the points stored as soon as there are this many."""
    while (stored := int(client.query(COUNT).first_row[0])) < points:
        time.sleep(LOOK_S)
    return stored


def children_cpu_s() -> float:
    """Return the CPU seconds of the workers that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(shape: Shape) -> None:
    """Print the figures of one shape."""
    name = f"{shape.points:,}-point records"
    total = shape.records * shape.points
    with topics() as environ, engine() as (root, client):
        bootstrap = environ["RUNWIRE_KAFKA_BOOTSTRAP_SERVERS"]
        topic = topic_name("metric", environ["RUNWIRE_KAFKA_TOPIC_PREFIX"])
        # A worker for one record, whose CPU is that of any start and stop.
        produce(bootstrap, topic, shape, range(1))
        before_s = children_cpu_s()
        with worker(root, **environ):
            wait_for(client, shape.points)
        start_s = children_cpu_s() - before_s
        values = produce(bootstrap, topic, shape, range(1, shape.records))
        reading_s = consume_only(bootstrap, topic, shape.records)
        with worker(root, **environ):
            first = wait_for(client, shape.points + 1)
            begin = time.perf_counter()
            wait_for(client, total)
            wall = time.perf_counter() - begin
        cpu_s = children_cpu_s() - before_s - 2 * start_s
        insert_s = raw_insert(client, values[: 500_000 // shape.points])
    rate = (total - first) / wall
    figure(f"Kafka -> ClickHouse points/s, {name}", rate, "1/s", floor="raw Native insert",
           ratio=rate * insert_s, bar=">= 2 M" if shape.calls == 100 else ">= 1 M")  # fmt: skip
    figure(f"the same against reading alone, {name}", rate, "1/s",
           floor="consume without decoding", ratio=rate / (total / reading_s))  # fmt: skip
    figure(f"worker CPU per point, {name}", cpu_s / total * 1e6, "us",
           floor="raw Native insert (wall)", ratio=cpu_s / total / insert_s)  # fmt: skip
    figure(f"worker CPU per record, {name}", cpu_s / shape.records * 1e6, "us",
           floor="consume without decoding (wall)", ratio=cpu_s / reading_s)  # fmt: skip


def plain_block(rows: list[MetricColumns]) -> bytes:
    """Return the rows as they come, each column written out: what a first sink would send."""
    joined = join_rows(rows)
    heads = [joined.heads[place] for place in np.repeat(joined.head_of, joined.row_points)]
    names = [head.names[k] for head, k in zip(heads, joined.arrays.name_idx.tolist(), strict=True)]
    calls = joined.arrays
    texts = {
        "project": [head.project for head in heads],
        "run_id": [head.run_id for head in heads],
        "metric": names,
    }
    numbers = {
        "attempt": [attempt_key(head.attempt) for head in heads],
        "writer": [writer_key(head.writer) for head in heads],
    }
    return native.block(
        [
            *(native.low_cardinality(name, *dictionary(items)) for name, items in texts.items()),
            native.numbers("rank", "Int32", [head.rank for head in heads]),
            *(native.numbers(name, "UInt64", items) for name, items in numbers.items()),
            native.numbers("step", "Int64", np.repeat(calls.call_step, calls.call_n)),
            native.numbers("seq", "Int64", np.repeat(calls.call_seq, calls.call_n)),
            native.numbers("at", "DateTime64(3)", np.repeat(joined.at_ms, calls.call_n)),
            native.numbers("value", "Float64", calls.value),
        ]
    )


def raw_insert(client: Client, values: list[bytes]) -> float:
    """Return the seconds per point to insert prepared blocks into a copy of the table."""
    records = [Record("metric", "p", n, n, 0, data) for n, data in enumerate(values)]
    rows = [row for row in decode_ahead(records) if isinstance(row, MetricColumns)]
    block = plain_block(rows)
    client.command("CREATE TABLE runwire.floor AS runwire.metrics")
    settings = {"async_insert": 0, "optimize_on_insert": 0}
    start = time.perf_counter()
    for _ in range(4):
        client.raw_insert("runwire.floor", insert_block=block, fmt="Native", settings=settings)
    return (time.perf_counter() - start) / (4 * sum(row.points for row in rows))


def main() -> None:
    print(machine())
    for shape in SHAPES:
        measure(shape)


if __name__ == "__main__":
    main()
