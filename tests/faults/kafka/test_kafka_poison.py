"""Records that nobody can read: set aside before the commit, once, and not without end."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from faults.kafka import report
from faults.kafka.conftest import OpenPipeline
from faults.kafka.gate import Gate
from faults.kafka.pipeline import Pipeline
from faults.kafka.verdict import judge
from faults.verdict import assert_exactly_once
from runwire_consumers.kafka.dead_letters import KafkaDeadLetters

pytestmark = pytest.mark.engine

LONG = os.environ.get("RUNWIRE_FAULTS") == "long"
MOMENTS = ["after-intent", "after-insert"] if LONG else ["after-intent"]
POISON = [b"", b"\x00", b"\x00\x00\x00\x00\x00", b"{}", b"\x00\x00\x00\x00\x07" + b"\xff" * 4000]


def letters(pipeline: Pipeline) -> list[bytes]:
    """What lies in the dead-letter topic, by value."""
    kept = KafkaDeadLetters(pipeline.kafka)
    try:
        return sorted(letter.value for letter in kept.read())
    finally:
        kept.close()


def finish(pipeline: Pipeline, done: str, wanted: list[bytes]) -> None:
    """Judge points and letters."""
    verdict = judge(pipeline, pipeline.feed.accepted)
    report.note("poison", done, pipeline, verdict)
    assert verdict.dead_letters == len(wanted)
    assert letters(pipeline) == sorted(wanted)
    assert_exactly_once(replace(verdict, dead_letters=0))


@pytest.mark.parametrize("moment", MOMENTS)
def test_poison_and_a_kill(open_pipeline: OpenPipeline, moment: str) -> None:
    """Killed before the letters are flushed, and between them and the commit: each counts once."""
    pipeline = open_pipeline(partitions=1)
    pipeline.feed.send(10)
    pipeline.feed.send_bad(POISON[:3])
    pipeline.feed.send(10)
    pipeline.feed.send_bad(POISON[3:])
    worker = pipeline.start_worker(kill_at=moment)
    assert worker.wait_for_end() == -signal.SIGKILL
    assert len(letters(pipeline)) in ((0,) if moment == "after-intent" else range(1, 6))
    worker = pipeline.start_worker()
    pipeline.wait_drained()
    worker.stop()
    finish(pipeline, f"killed {moment}", POISON)


def test_poison_is_kept_before_anything_is_written(
    open_pipeline: OpenPipeline, clickhouse_url: str
) -> None:
    """Killed while the insert of its batch is on its way: the letters are in the topic by then."""
    with Gate(clickhouse_url) as gate:
        pipeline = open_pipeline(partitions=1)
        worker = pipeline.start_worker(url=gate.url)
        pipeline.feed.send(10)
        pipeline.wait_drained()
        gate.shut()
        pipeline.feed.send_bad(POISON)
        pipeline.wait("the insert to be held", gate.held.is_set)
        assert letters(pipeline)
        assert pipeline.count("SELECT count() FROM dead_letters") == 0
        assert pipeline.intents()
        worker.kill()
    worker = pipeline.start_worker()
    pipeline.feed.send(10)
    pipeline.wait_drained()
    worker.stop()
    finish(pipeline, "killed during the insert", POISON)


def test_too_much_poison_stops_the_worker(open_pipeline: OpenPipeline) -> None:
    """At the limit it ends with a sentence and commits nothing of the batch; raised, it goes on."""
    pipeline = open_pipeline(partitions=1)
    pipeline.feed.send(10)
    worker = pipeline.start_worker(dead_letters_max=3)
    pipeline.wait_drained()
    before = pipeline.offsets()[0][0]
    pipeline.feed.send_bad(POISON)
    pipeline.feed.send(10)
    for _ in range(2):  # started again it says the same
        assert worker.wait_for_end() == 1
        assert "the limit is reached. Nothing was dropped and nothing more is read" in worker.said
        assert "RUNWIRE_WORKER_DEAD_LETTERS_MAX" in worker.said
        assert len(letters(pipeline)) == 3
        assert before <= pipeline.offsets()[0][0] <= before + 3
        worker = pipeline.start_worker(dead_letters_max=3)
    assert worker.wait_for_end() == 1
    worker = pipeline.start_worker(dead_letters_max=10)
    pipeline.wait_drained()
    worker.stop()
    finish(pipeline, "the limit, then a higher one", POISON)
