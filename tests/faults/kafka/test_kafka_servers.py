"""Killed servers: one broker of three, and ClickHouse."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, TopicCollection

from faults.kafka import report
from faults.kafka.pipeline import Pipeline
from faults.kafka.verdict import judge
from faults.verdict import assert_exactly_once
from runwire_consumers.clickhouse.client import connect
from runwire_consumers.clickhouse.engine import Engine
from runwire_consumers.clickhouse.migrate import apply
from support.faults import PATIENCE_S, wait_for
from support.servers import Cluster

pytestmark = pytest.mark.engine

LONG = os.environ.get("RUNWIRE_FAULTS") == "long"
BROKERS = 3


def is_whole(pipeline: Pipeline) -> bool:
    """Whether every partition of the points has all its replicas in sync."""
    futures = pipeline.admin.describe_topics(TopicCollection([pipeline.topic]))
    try:
        topic = futures[pipeline.topic].result()
    except KafkaException:
        return False
    return all(len(partition.isr) == BROKERS for partition in topic.partitions)


def test_points_are_stored_once_when_one_broker_of_three_is_killed(
    kafka3: Cluster, topic_prefix: str, clickhouse_url: str, tmp_path: Path, *, fault_seed: int
) -> None:
    """Under load with acks=all no point is lost and none is stored twice."""
    rng = random.Random(f"{fault_seed} brokers")
    kills = [rng.randint(1, BROKERS) for _ in range(6 if LONG else 1)]
    with Pipeline(
        kafka3, topic_prefix, clickhouse_url, tmp_path, copies=BROKERS, partitions=6
    ) as pipeline:
        workers = [pipeline.start_worker(batch_rows=3000) for _ in range(2)]
        pipeline.feed.begin()
        pipeline.wait_progress()
        try:
            for number in kills:
                pipeline.wait("all replicas", lambda: is_whole(pipeline))
                kafka3.kill(number)
                pipeline.wait_progress()
                pipeline.wait_progress()
                kafka3.start()
        finally:
            kafka3.start()
        pipeline.feed.end()
        pipeline.wait_drained()
        for worker in workers:
            worker.stop()
        verdict = judge(pipeline, pipeline.feed.accepted)
        report.note("one broker of three", f"{len(kills)} x SIGKILL", pipeline, verdict)
        assert_exactly_once(verdict)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A ClickHouse that this test may kill."""
    if importlib.util.find_spec("chdb") is None:
        sentence = "chdb-core is not installed (pip install 'runwire[embedded]')"
        if os.environ.get("RUNWIRE_TEST_REQUIRE_SERVERS") == "1":
            pytest.fail(f"RUNWIRE_TEST_REQUIRE_SERVERS=1 and {sentence}")
        pytest.skip(sentence)
    made = Engine(tmp_path / "engine", ports=(0, 0), die_with_parent=True)
    made.start()
    yield made
    made.stop()


def kill(engine: Engine) -> None:
    """SIGKILL and wait until it is gone."""
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    wait_for("the engine to be gone", lambda: not engine.alive())


def test_kills_of_clickhouse_lose_and_double_nothing(
    kafka: Cluster, topic_prefix: str, engine: Engine, tmp_path: Path, *, fault_seed: int
) -> None:
    """The worker stays a member of its group while it waits."""
    rng = random.Random(f"{fault_seed} engine")
    url = engine.wait_ready(PATIENCE_S).url
    client = connect(url, create=True)
    apply(client)
    client.close()
    kills = 6 if LONG else 1
    with Pipeline(kafka, topic_prefix, url, tmp_path) as pipeline:
        worker = pipeline.start_worker(batch_rows=3000)
        pipeline.feed.begin()
        pipeline.wait_progress()
        members = pipeline.members()
        for _ in range(kills):
            pipeline.wait("an intent", lambda: bool(pipeline.intents()), every_s=0.002)
            time.sleep(rng.uniform(0.0, 0.03))
            kill(engine)
            time.sleep(pipeline.session_s * 1.5)  # longer than a silent member may be away
            assert pipeline.members() == members
            engine.start()
            assert engine.wait_ready(PATIENCE_S).url == url
            pipeline.wait_progress()
        pipeline.feed.end()
        pipeline.wait_drained()
        assert pipeline.members() == members
        worker.stop()
        verdict = judge(pipeline, pipeline.feed.accepted)
        report.note("ClickHouse killed", f"{kills} x SIGKILL", pipeline, verdict)
        assert_exactly_once(verdict)
