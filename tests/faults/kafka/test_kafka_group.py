"""Members that come and go under load, and one that is frozen, fenced and wakes up."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from faults.kafka import report
from faults.kafka.conftest import OpenPipeline
from faults.kafka.gate import Gate
from faults.kafka.pipeline import Pipeline, WorkerProcess
from faults.kafka.verdict import judge
from faults.verdict import assert_exactly_once
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.source import Record
from runwire_consumers.kafka.source import KafkaSource
from runwire_schemas.topics import topic_name
from support.builders import record, run_event
from support.faults import wait_for
from support.servers import Cluster
from support.topics import group, make_topics, send

pytestmark = pytest.mark.engine

LONG = os.environ.get("RUNWIRE_FAULTS") == "long"
PROTOCOLS = ("classic", "consumer")
MEMBERS_MAX = 4
ZOMBIES = [("classic", "leaves"), ("consumer", "stays")]
if LONG:
    ZOMBIES += [("classic", "stays"), ("consumer", "leaves")]


def storm(pipeline: Pipeline, rng: random.Random, changes: int) -> Counter[str]:
    """Let workers join and leave at random under load."""
    done: Counter[str] = Counter()
    pipeline.feed.begin()
    pipeline.start_worker(batch_rows=2000)
    for _ in range(changes):
        running = pipeline.running
        few, many = len(running) < 2, len(running) == MEMBERS_MAX
        change = "joins" if few else rng.choice(("SIGTERM", "SIGKILL") if many else
                                                ("joins", "SIGTERM", "SIGKILL"))  # fmt: skip
        if change == "joins":
            pipeline.start_worker(batch_rows=rng.randint(50, 4000))
        elif change == "SIGTERM":
            rng.choice(running).stop()
        else:
            rng.choice(running).kill()
        done[change] += 1
        if rng.random() < 0.5:
            pipeline.wait_progress()
        time.sleep(rng.uniform(0.0, 2.0))
    pipeline.feed.end()
    return done


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rebalance_storm_loses_and_doubles_nothing(
    open_pipeline: OpenPipeline, fault_seed: int, protocol: str
) -> None:
    """Workers join, leave and die under load; each point is stored once."""
    rng = random.Random(f"{fault_seed} storm {protocol}")
    pipeline = open_pipeline(group_protocol=protocol, partitions=6)
    done = storm(pipeline, rng, 25 if LONG else 4)
    last = pipeline.start_worker()  # with large batches, for what the storm has left
    for worker in pipeline.running:
        if worker is not last:
            worker.stop()
    pipeline.wait_drained()
    last.stop()
    verdict = judge(pipeline, pipeline.feed.accepted)
    said = ", ".join(f"{count} {name}" for name, count in sorted(done.items()))
    report.note(f"rebalance storm, {protocol} group", said, pipeline, verdict)
    assert_exactly_once(verdict)


@pytest.mark.parametrize("protocol", PROTOCOLS if LONG else PROTOCOLS[:1])
def test_partition_is_read_again_after_it_was_revoked_while_paused(
    kafka: Cluster, topic_prefix: str, protocol: str
) -> None:
    """A partition that was paused, revoked and assigned again is not paused any more."""
    settings = replace(kafka.settings, topic_prefix=topic_prefix)
    make_topics(settings, topic_prefix, ["run"])
    chosen = group(topic_prefix, ["run"], protocol=protocol)
    first = KafkaSource(settings, chosen)
    poll_until("both partitions", lambda: len(first.assigned) == 2, first)
    first.pause()
    second = KafkaSource(settings, chosen)
    poll_until("one each", lambda: len(second.assigned) == 1, first, second)
    poll_until("one each", lambda: len(first.assigned) == 1, first, second)
    first.resume()
    second.close(Deadline(5.0))
    poll_until("both again", lambda: len(first.assigned) == 2, first)
    events = [record(run_event(seq=seq), seq) for seq in range(3)]
    for number in range(2):
        send(settings, topic_name("run", topic_prefix), events, partition=number)
    found: list[Record] = []

    def is_all() -> bool:
        found.extend(first.poll(0.1))
        return len(found) == 6

    wait_for("all records", is_all)
    first.close(Deadline(5.0))


def poll_until(what: str, ready: Callable[[], bool], *sources: KafkaSource) -> None:
    """Poll the sources in turn until a state is reached."""

    def is_ready() -> bool:
        for source in sources:
            assert source.poll(0.05) == []
        return ready()

    wait_for(what, is_ready)


def freeze_while_writing(pipeline: Pipeline, gate: Gate, rng: random.Random) -> WorkerProcess:
    """Stop a worker (SIGSTOP) that has announced a batch and not written it yet."""
    # Small batches: it has the next one full while it waits, and polls no more.
    zombie = pipeline.start_worker(url=gate.url, batch_rows=rng.randint(100, 400))
    pipeline.feed.send(20)
    pipeline.wait_drained()
    gate.shut()
    pipeline.feed.send(120)
    pipeline.wait("a batch in front of ClickHouse", gate.held.is_set)
    pipeline.wait("its intent", lambda: bool(pipeline.intents()))
    zombie.pause()
    return zombie


@pytest.mark.parametrize(("protocol", "heir"), ZOMBIES)
def test_zombie_worker_neither_duplicates_nor_commits_when_it_wakes_up(
    open_pipeline: OpenPipeline, clickhouse_url: str, fault_seed: int, *, protocol: str, heir: str
) -> None:
    """Its batch was written by another worker under the same token, and its late commit is ignored.
    If that worker has left by then, the group is empty and no member fences the zombie."""
    rng = random.Random(f"{fault_seed} zombie {protocol} {heir}")
    with Gate(clickhouse_url) as gate:
        pipeline = open_pipeline(group_protocol=protocol, partitions=3)
        zombie = freeze_while_writing(pipeline, gate, rng)
        second = pipeline.start_worker(batch_rows=5000)
        pipeline.wait_drained()
        pipeline.feed.send(20)
        pipeline.wait_drained()
        assert pipeline.count_in_logs(report.REPLAYED) >= 1
        offsets = pipeline.offsets()
        if heir == "leaves":
            second.stop()
        zombie.go_on()
        time.sleep(pipeline.session_s / 2)  # it learns from its heartbeats what happened
        gate.open()
        if heir == "stays":
            pipeline.feed.send(40)
            pipeline.wait_drained()
            second.stop()
        pipeline.feed.send(40)  # only the zombie is left to write these
        pipeline.wait_drained()
        assert all(now[0] >= offsets[number][0] for number, now in pipeline.offsets().items())
        zombie.stop()
        verdict = judge(pipeline, pipeline.feed.accepted)
        done = f"SIGSTOP past its session, {protocol} group, the heir {heir}"
        report.note("zombie", done, pipeline, verdict)
        assert_exactly_once(verdict)
