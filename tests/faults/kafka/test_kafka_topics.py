"""Topics deleted and created again under the same name: offsets begin anew."""

from __future__ import annotations

import os

import pytest
from confluent_kafka import TopicPartition

from faults.kafka import feed, report
from faults.kafka.conftest import OpenPipeline
from faults.kafka.pipeline import Pipeline
from faults.kafka.verdict import judge
from faults.verdict import assert_exactly_once

pytestmark = pytest.mark.engine

LONG = os.environ.get("RUNWIRE_FAULTS") == "long"

# Fewer records than before end below the old offset; more reach beyond it.
AGAIN = {"fewer": 20, "more": 160}
CASES = [("runs", "fewer"), ("is down", "more")]
if LONG:
    CASES += [("runs", "more"), ("is down", "fewer")]


def make_anew(pipeline: Pipeline, count: int) -> None:
    """Delete the topic and create it again with N records, as fast as the broker can."""
    pipeline.drop_topic()
    pipeline.make_topics(["metric"])
    pipeline.feed.renew()
    pipeline.feed.send(count)


def wait_stored(pipeline: Pipeline) -> None:
    """Wait until every point is stored; offsets of a deleted topic prove nothing."""
    wanted = sum(map(feed.points_of, pipeline.feed.accepted))
    pipeline.wait("every point of the new topic", lambda: pipeline.stored() >= wanted)
    pipeline.wait_drained()


@pytest.mark.parametrize(("worker", "again"), CASES)
def test_recreated_topic_is_read_from_its_start(
    open_pipeline: OpenPipeline, worker: str, again: str
) -> None:
    """Old offsets hide no record of the new topic, and old tokens drop none."""
    pipeline = open_pipeline(partitions=1)
    running = pipeline.start_worker()
    # One by one: batches of the ranges 0-0, 1-1, ..., which the new topic will have as well.
    for _ in range(3):
        pipeline.feed.send(1)
        pipeline.wait_drained()
    pipeline.feed.send(60)
    pipeline.wait_drained()
    if worker == "is down":
        running.stop()
    make_anew(pipeline, 1)
    if worker == "is down":
        running = pipeline.start_worker()
    else:
        wait_stored(pipeline)
    pipeline.feed.send(AGAIN[again])
    wait_stored(pipeline)
    pipeline.feed.send(30)
    wait_stored(pipeline)
    running.stop()
    verdict = judge(pipeline, pipeline.feed.accepted)
    done = f"the worker {worker}, {again} records than before"
    report.note("topic deleted and created again", done, pipeline, verdict)
    assert_exactly_once(verdict)


def test_recreated_topic_is_noticed_when_it_is_longer_at_once(open_pipeline: OpenPipeline) -> None:
    """The new topic is longer than the old one before the worker can look."""
    pipeline = open_pipeline(partitions=1)
    worker = pipeline.start_worker()
    pipeline.feed.send(60)
    pipeline.wait_drained()
    make_anew(pipeline, 300)
    wait_stored(pipeline)
    worker.stop()
    verdict = judge(pipeline, pipeline.feed.accepted)
    report.note("topic deleted and created again", "longer at once", pipeline, verdict)
    assert_exactly_once(verdict)


def test_worker_reports_records_that_expired_before_they_were_read(
    open_pipeline: OpenPipeline,
) -> None:
    """If the committed offset is before the log start, the worker reports it and continues."""
    pipeline = open_pipeline(partitions=1)
    worker = pipeline.start_worker()
    pipeline.feed.send(20)
    pipeline.wait_drained()
    worker.stop()
    kept = set(pipeline.feed.accepted)
    pipeline.feed.send(30)
    place = TopicPartition(pipeline.topic, 0, 50)
    pipeline.admin.delete_records([place])[place].result()
    before = set(pipeline.feed.accepted)
    pipeline.feed.send(40)
    worker = pipeline.start_worker()
    pipeline.wait_drained()
    pipeline.feed.send(10)
    pipeline.wait_drained()
    worker.stop()
    assert "offset 20 is outside the log (50 to 90)" in worker.log_text
    assert_exactly_once(judge(pipeline, pipeline.feed.accepted - before | kept))
