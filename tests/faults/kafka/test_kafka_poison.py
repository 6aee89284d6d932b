"""Unreadable records: they become dead letters before the commit, once, up to a limit."""

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
from runwire import cli
from runwire_consumers.kafka.dead_letters import KafkaDeadLetters

pytestmark = pytest.mark.engine

LONG = os.environ.get("RUNWIRE_FAULTS") == "long"
MOMENTS = ["after-intent", "after-insert"] if LONG else ["after-intent"]
POISON = [b"", b"\x00", b"\x00\x00\x00\x00\x00", b"{}", b"\x00\x00\x00\x00\x07" + b"\xff" * 4000]


def letters(pipeline: Pipeline) -> list[bytes]:
    """The letters in the dead-letter topic, by value."""
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
def test_poison_counts_once_when_the_worker_is_killed(
    open_pipeline: OpenPipeline, moment: str
) -> None:
    """Killed before the letters are flushed or between flush and commit, each counts once."""
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


def test_dead_letters_are_stored_before_their_batch_is_written(
    open_pipeline: OpenPipeline, clickhouse_url: str
) -> None:
    """If the worker is killed during the insert, the letters of the batch are in the topic."""
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


def test_poison_headers_stop_no_worker(open_pipeline: OpenPipeline) -> None:
    """A count of points that overflows, or is no number, changes nothing about a bad record."""
    pipeline = open_pipeline(partitions=1)
    worker = pipeline.start_worker()
    for number, header in enumerate((b"9" * 21, b"-1", b"\xff", b"9" * 400)):
        pipeline.feed.send_bad([POISON[number]], points=header)
    pipeline.feed.send(10)
    pipeline.wait_drained()
    worker.stop()
    finish(pipeline, "poison headers", POISON[:4])


def test_record_too_large_for_the_dead_letter_topic_stops_no_partition(
    open_pipeline: OpenPipeline,
) -> None:
    """40 MiB of zeros are 2 kB on the wire: the letter is cut, and everything behind is stored."""
    pipeline = open_pipeline(partitions=2)
    worker = pipeline.start_worker()
    pipeline.feed.send_bad([bytes(40 << 20)])
    pipeline.feed.send(10)
    pipeline.wait_drained()
    worker.stop()
    (kept,) = letters(pipeline)
    assert kept
    assert not any(kept)
    finish(pipeline, "a record of 40 MiB", [kept])


def test_bad_record_of_a_recreated_topic_is_kept_too(open_pipeline: OpenPipeline) -> None:
    """The second topic has a bad record at the same offset: both letters are kept."""
    pipeline = open_pipeline(partitions=1)
    worker = pipeline.start_worker()
    for bad in POISON[1:3]:
        pipeline.feed.send_bad([bad])
        pipeline.wait("the letter", lambda bad=bad: bad in letters(pipeline))
        pipeline.drop_topic()
        pipeline.make_topics(["metric"])
        pipeline.feed.renew()
    pipeline.feed.send(10)
    pipeline.wait_drained()
    worker.stop()
    finish(pipeline, "at the same offset of a topic made anew", POISON[1:3])


def test_worker_stops_at_the_limit_of_dead_letters(open_pipeline: OpenPipeline) -> None:
    """It ends with a sentence and commits nothing of the batch; with a higher limit it
    continues."""
    pipeline = open_pipeline(partitions=1)
    pipeline.feed.send(10)
    worker = pipeline.start_worker(dead_letters_max=3)
    pipeline.wait_drained()
    before = pipeline.offsets()[0][0]
    pipeline.feed.send_bad(POISON)
    pipeline.feed.send(10)
    for _ in range(2):  # started again it says the same
        assert worker.wait_for_end() == 1
        assert (
            "the limit is reached. Nothing was dropped and nothing more is read" in worker.log_text
        )
        assert "RUNWIRE_WORKER_DEAD_LETTERS_MAX" in worker.log_text
        assert len(letters(pipeline)) == 3
        assert before <= pipeline.offsets()[0][0] <= before + 3
        worker = pipeline.start_worker(dead_letters_max=3)
    assert worker.wait_for_end() == 1
    worker = pipeline.start_worker(dead_letters_max=10)
    pipeline.wait_drained()
    worker.stop()
    finish(pipeline, "the limit, then a higher one", POISON)


def test_worker_at_the_limit_goes_on_after_its_letters_were_deleted(
    open_pipeline: OpenPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dead-letters rm` is a way out, also of a batch with more bad records than the limit."""
    pipeline = open_pipeline(partitions=1)
    pipeline.feed.send_bad(POISON)
    pipeline.feed.send(10)
    worker = pipeline.start_worker(dead_letters_max=3)
    assert worker.wait_for_end() == 1
    assert "runwire dead-letters rm" in worker.log_text
    for name, value in pipeline.kafka.environment().items():
        monkeypatch.setenv(name, value)
    assert cli.main(["dead-letters", "rm", "--all", "--yes"]) == 0
    assert letters(pipeline) == []
    worker = pipeline.start_worker(dead_letters_max=3)
    pipeline.wait_drained()
    worker.stop()
    verdict = judge(pipeline, pipeline.feed.accepted)
    report.note("poison", "the limit, then `dead-letters rm`", pipeline, verdict)
    assert (verdict.dead_letters, len(letters(pipeline))) == (len(POISON), len(POISON) - 3)
    assert_exactly_once(replace(verdict, dead_letters=0))
