"""Readers that share no code with us: plain fastavro, and ClickHouse itself.

The fastavro reader uses only what `schemas/` holds: the topics table of its README and the files
in `avro/`. ClickHouse gets the bytes of the topic as they are, and the registry.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import fastavro
import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, Producer

from runwire_consumers.clickhouse.client import connect
from runwire_consumers.kafka import topics
from runwire_consumers.kafka.admin import KafkaAdmin
from runwire_schemas import codec
from runwire_schemas.events import EVENTS, DeadLetter, Event, MetricBatch
from runwire_schemas.metric_decode import decode_metric_batch
from runwire_schemas.registry import Registry as RegistryClient
from runwire_schemas.registry import with_id
from runwire_schemas.topics import topic_name
from support.builders import heartbeat, log_event, metric_batch, param_event, run_event
from support.servers import Cluster as Brokers
from support.servers import Registry

SCHEMAS = Path(__file__).parents[3] / "schemas"
README = (SCHEMAS / "README.md").read_text("utf-8")
# Each record of the README's SQL as one row; the column names are those of the Avro record.
TABLE = """
CREATE TABLE metric_messages (
    project String, run_id String, attempt String, writer String, rank Int32, batch_seq Int64,
    names Array(String), call_seq Array(Int64), call_step Array(Int64), call_at_ms Array(Int64),
    call_n Array(Int32), name_idx Array(Int32), value Array(Float64)
) ENGINE = MergeTree ORDER BY (run_id, batch_seq)
"""
BATCHES = [
    metric_batch(3, ("train/loss", "grad norm", "λ"), run_id="r1"),
    metric_batch(200, [f"layer{n}/weight" for n in range(70)], run_id="r2", first=100),
    metric_batch(1, ("edge",), run_id="r3", value=[math.nan], call_step=[-(2**63)]),
    metric_batch(1, ("edge",), run_id="r4", value=[-0.0], call_step=[2**63 - 1]),
    metric_batch(2, ("edge", "inf"), run_id="r5", value=[math.inf, 5e-324, -math.inf, 1e308]),
    metric_batch(0, (), run_id="empty"),
    dataclasses.replace(
        metric_batch(3, ("a", "b"), run_id="ragged"),
        call_n=[2, 0, 1],
        name_idx=[0, 1, 1],
        value=[1.5, 2.5, 3.5],
    ),
]
OTHERS: list[Event] = [
    run_event(tags={"a": "b"}, dropped={"quota": 3}, world_size=2),
    param_event(value='{"lr": 0.1}'),
    heartbeat(dropped={}, last_step=None),
    log_event(text="zeile 1\nλ", step=None),
    DeadLetter(
        id="00" * 16,
        stream="metric",
        partition="metric/0",
        offset=4,
        last_offset=4,
        at_ns=5,
        reason="cannot be decoded: message has 0 bytes",
        points=7,
        key=b"\x00\xff",
        value=b"",
    ),
]


def kind_of(event: Event) -> str:
    return next(kind for kind, known in EVENTS.items() if known is type(event))


def send(brokers: Brokers, prefix: str, events: list[Event], ids: dict[str, int]) -> None:
    producer = Producer({**brokers.settings.client_config(), "compression.type": "zstd"})
    for event in events:
        kind = kind_of(event)
        value = with_id(codec.encode(event), ids[kind])
        producer.produce(topic_name(kind, prefix), value, getattr(event, "writer", "w"))
    assert producer.flush(30) == 0


def values(brokers: Brokers, topic: str) -> list[bytes]:
    """All values of a topic, from its start to its end."""
    consumer = Consumer(
        {
            **brokers.settings.client_config(),
            "group.id": topic,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    count = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    consumer.subscribe([topic])
    found: list[bytes] = []
    ends = 0
    while ends < count:
        message = consumer.poll(30)
        assert message is not None, f"nothing more from {topic}, {ends} of {count} ends were seen"
        problem = message.error()
        if problem is None:
            found.append(message.value() or b"")
        else:
            assert problem.name() == "_PARTITION_EOF", problem
            ends += 1
    consumer.close()
    return found


def documented_schemas() -> dict[str, Any]:
    """Topic under the default prefix to its schema, by the table of the README."""
    rows = re.findall(r"^\| `(runwire\.\w+\.v1)` \| `(avro/[\w.]+)` \|", README, re.MULTILINE)
    package = SCHEMAS / "runwire_schemas"
    return {topic: json.loads((package / path).read_text("utf-8")) for topic, path in rows}


def comparable(record: dict[str, Any]) -> str:
    """With NaN equal to itself and bytes as they are."""
    return repr(sorted(record.items()))


def points(batches: list[MetricBatch]) -> list[tuple[Any, ...]]:
    """What our own decoder makes of them: one row per point, the value as its 64 bits."""
    found = []
    for batch in batches:
        columns = decode_metric_batch(codec.encode(batch))
        bits = (struct.unpack("<Q", struct.pack("<d", value))[0] for value in columns.value)
        named = (columns.head.names[index] for index in columns.name_idx)
        steps, times = columns.step.tolist(), columns.at_ms.tolist()
        rows = zip(named, steps, times, bits, strict=True)
        found += [(columns.run_id, *row) for row in rows]
    return sorted(found)


@pytest.fixture
def ids(kafka: Brokers, registry: Registry, topic_prefix: str) -> dict[str, int]:
    """Topics and subjects are made; the registry's schema id of each kind."""
    topics.apply(KafkaAdmin(kafka.settings), prefix=topic_prefix)
    client = RegistryClient(registry.url, prefix=topic_prefix)
    for kind in EVENTS:
        client.register(kind)
    found = client.ids()
    assert max(found.values()) < codec.BUNDLED_ID_BASE
    return found


@pytest.mark.parametrize("numbering", ["registry", "bundled"])
def test_plain_fastavro_reads_every_topic(
    kafka: Brokers, topic_prefix: str, ids: dict[str, int], numbering: str
) -> None:
    """fastavro decodes every topic with the schema files alone, whatever the schema ids are."""
    numbers = ids if numbering == "registry" else {k: codec.bundled_id(k) for k in EVENTS}
    sent: list[Event] = [*BATCHES, *OTHERS]
    send(kafka, topic_prefix, sent, numbers)
    schemas = documented_schemas()
    assert len(schemas) == len(EVENTS)
    for topic, schema in schemas.items():
        parsed = fastavro.parse_schema(schema)
        found = []
        for value in values(kafka, topic.replace("runwire", topic_prefix, 1)):
            body = io.BytesIO(value[5:])
            found.append(fastavro.schemaless_reader(body, parsed, None))
            assert body.read() == b""
        kind = topic.split(".")[1]
        expected = [dataclasses.asdict(event) for event in sent if kind_of(event) == kind]
        assert sorted(map(comparable, found)) == sorted(map(comparable, expected))


@pytest.mark.engine
def test_clickhouse_parses_the_same_points_from_the_topic(
    kafka: Brokers,
    registry: Registry,
    topic_prefix: str,
    *,
    ids: dict[str, int],
    clickhouse_url: str,
) -> None:
    """AvroConfluent on the topic's bytes and the SQL of the README give the same points."""
    send(kafka, topic_prefix, list(BATCHES), ids)
    client = connect(clickhouse_url)
    client.command(TABLE)
    _insert(client, registry.url, values(kafka, topic_name("metric", topic_prefix)))
    (query,) = re.findall(r"```sql\n(SELECT run_id, name, step, at_ms.*?)```", README, re.DOTALL)
    rows = client.query(
        f"SELECT run_id, name, step, at_ms, reinterpretAsUInt64(value) FROM ({query})"
    ).result_rows
    client.close()
    assert sorted(map(tuple, rows)) == points(BATCHES)


def _insert(client: Client, registry_url: str, messages: list[bytes]) -> None:
    client.raw_insert(
        "metric_messages",
        insert_block=b"".join(messages),
        fmt="AvroConfluent",
        settings={"format_avro_schema_registry_url": registry_url},
    )
