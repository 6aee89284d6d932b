"""Workers killed at random moments and at every step of the protocol; and the control."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

import pytest

from faults.campaign import KILL_POINTS
from faults.kafka import feed, report
from faults.kafka.conftest import OpenPipeline
from faults.kafka.pipeline import Pipeline
from faults.kafka.verdict import judge
from faults.verdict import Verdict, assert_exactly_once
from support.harness_worker import ROUND_POINTS

pytestmark = pytest.mark.engine

LONG = os.environ.get("RUNWIRE_FAULTS") == "long"
LONG_KILLS = int(os.environ.get("RUNWIRE_FAULTS_KAFKA_KILLS", "64"))
_INTENT_LOOK_S = 0.002
_INTENT_PATIENCE_S = 3.0  # the control has none


def paced(rng: random.Random) -> dict[str, object]:
    """Random limits of batches: from a few records to many."""
    return {"batch_age_s": round(rng.uniform(0.02, 0.5), 2), "batch_rows": rng.randint(30, 4000)}


def campaign(pipeline: Pipeline, plan: list[str], rng: random.Random) -> Counter[str]:
    """Kill one worker after the other under load; half of them come back as the same member."""
    kills: Counter[str] = Counter()
    pipeline.feed.begin()
    for victim in plan:
        # A member of its own name is back at once; of another the group waits for its session.
        told = paced(rng) | {"group_instance_id": "one" if rng.random() < 0.6 else ""}
        if victim in ROUND_POINTS:
            told["batch_rows"] = 30  # a round is full before the last one is written
        if victim == "random":
            worker = pipeline.start_worker(**told)
            pipeline.wait_progress()
            _wait_for_an_intent(pipeline, rng)
            worker.kill()
        else:
            worker = pipeline.start_worker(kill_at=f"{victim}:{rng.randint(1, 4)}", **told)
            assert worker.wait_for_end() == -signal.SIGKILL, worker.log_text[-2000:]
        kills[victim] += 1
    pipeline.feed.end()
    return kills


def _wait_for_an_intent(pipeline: Pipeline, rng: random.Random) -> None:
    """Sleep a random time or, mostly, until a batch is announced: it is being written then."""
    if rng.random() < 0.7:
        end_s = time.monotonic() + _INTENT_PATIENCE_S
        while not pipeline.intents() and time.monotonic() < end_s:
            time.sleep(_INTENT_LOOK_S)
        time.sleep(rng.uniform(0.0, 0.03))
    else:
        time.sleep(rng.uniform(0.0, 0.5))


def finish(pipeline: Pipeline) -> Verdict:
    """Let a last worker, with large batches for what the campaign has left, drain the topic."""
    worker = pipeline.start_worker()
    pipeline.wait_drained()
    worker.stop()
    return judge(pipeline, pipeline.feed.accepted)


def test_killed_workers_lose_and_double_nothing(
    open_pipeline: OpenPipeline, fault_seed: int
) -> None:
    """The kill comes at the steps of the protocol, within a round, or at a random moment."""
    rng = random.Random(f"{fault_seed} kafka kill")
    pipeline = open_pipeline()
    plan = ["after-insert", "random", "after-intent", "after-commit", "before-books"]
    kills = campaign(pipeline, [*plan, *ROUND_POINTS], rng)
    verdict = finish(pipeline)
    report.note("kill -9, short", f"{kills.total()} kills", pipeline, verdict)
    assert_exactly_once(verdict)
    assert pipeline.count_in_logs(report.REPLAYED) >= 2


def control(pipeline: Pipeline, plan: list[str], rng: random.Random) -> Verdict:
    """The same without the protocol."""
    kills = campaign(pipeline, plan, rng)
    worker = pipeline.start_worker(**paced(rng))
    wanted = sum(map(feed.points_of, pipeline.feed.accepted))
    pipeline.wait("every point to be stored", lambda: pipeline.stored() >= wanted)
    worker.stop()
    verdict = judge(pipeline, pipeline.feed.accepted)
    report.note("control: protocol off", f"{kills.total()} kills", pipeline, verdict)
    return verdict


def test_control_without_the_protocol_doubles_rows(
    open_pipeline: OpenPipeline, fault_seed: int
) -> None:
    """The harness sees duplicates once intents and tokens are switched off."""
    rng = random.Random(f"{fault_seed} kafka control")
    plan = ["after-insert"] + (["random", "after-commit", "after-intent"] * 3 if LONG else [])
    verdict = control(open_pipeline(unsafe=True), plan, rng)
    assert verdict.inserted_twice > 0
    # The natural key is the second net: readers see each point once all the same.
    assert (verdict.lost, verdict.duplicates) == (0, 0)


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="RUNWIRE_FAULTS=long runs it (make faults)")
def test_many_kills_lose_and_double_nothing(open_pipeline: OpenPipeline, fault_seed: int) -> None:
    """A long campaign over all moments."""
    rng = random.Random(f"{fault_seed} kafka long")
    pipeline = open_pipeline(partitions=6)
    points = (*KILL_POINTS, *ROUND_POINTS)
    plan = rng.choices(["random", *points], weights=[5, *[1.5] * len(points)], k=LONG_KILLS)
    kills = campaign(pipeline, plan, rng)
    verdict = finish(pipeline)
    done = ", ".join(f"{count} {name}" for name, count in sorted(kills.items()))
    report.note("kill -9 of workers", f"{kills.total()} kills: {done}", pipeline, verdict)
    assert_exactly_once(verdict)
