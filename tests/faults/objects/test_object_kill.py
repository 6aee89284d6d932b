"""Trainer, agent and object worker killed at random moments of 200 MB transfers.

In the end every acknowledged artifact is complete and equal by hash, every other one absent or
complete. At no moment is half an artifact visible; outbox and store keep no leftovers.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from faults.kafka.pipeline import WorkerProcess
from faults.objects import report
from faults.objects.conftest import OpenRig
from faults.objects.contents import LARGE_BYTES
from faults.objects.finish import finish
from faults.objects.form import LONG
from faults.objects.moments import Moments
from faults.objects.observer import Observer
from faults.objects.rig import Rig
from faults.objects.verdict import assert_whole

pytestmark = pytest.mark.engine

SEEDS = int(os.environ.get(report.SEEDS_VARIABLE, "30" if LONG else "2"))
KILLS = (2, 4) if LONG else (2, 2)
# Every other seed takes the other way or store; the object worker has but one way.
WAYS = (
    ("kafka", "bucket"),
    ("direct", "bucket"),
    ("kafka", "minio_bucket"),
    ("direct", "minio_bucket"),
    ("direct", ""),
)
WORKER_WAYS = (("kafka", "bucket"), ("kafka", "minio_bucket"))
SMALL = ("bytes", 1000), ("folder", 0), ("file", 6_000_001), ("checkpoint", 3_000_000)


def way(nth: int, ways: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    return ways[nth % len(ways)]


class Campaign:
    """One seed: victims die one after the other until the plan is done."""

    def __init__(self, rig: Rig, rng: random.Random, moments: Moments) -> None:
        self.rig, self.rng, self.moments = rig, rng, moments
        self.agent: WorkerProcess | None = None
        self.worker: WorkerProcess | None = None

    def some_calls(self, large: int) -> list[dict[str, Any]]:
        """So many large ones with small ones between them."""
        kinds = [("file", LARGE_BYTES)] * large + self.rng.sample(SMALL, 2)
        self.rng.shuffle(kinds)
        return [self.rig.calls.call(kind, size) for kind, size in kinds]

    def keep_running(self) -> None:
        """Start agent and worker again where they are gone."""
        if self.agent is None or not self.agent.is_running:
            self.agent = self.rig.start_agent()
        if self.rig.route == "kafka" and (self.worker is None or not self.worker.is_running):
            # A member of its own name is back at once; for another the group waits.
            member = "one" if self.rng.random() < 0.7 else ""
            self.worker = self.rig.start_worker(member=member)

    def kill_trainers(self, kills: int) -> None:
        for _ in range(kills):
            self.keep_running()
            self.moments.kill(self.rig.start_trainer(self.some_calls(2)))
        self.rig.start_trainer([self.rig.calls.call("bytes", 10)])

    def kill_agents(self, kills: int) -> None:
        self.rig.start_trainer(self.some_calls(1))
        for _ in range(kills):
            self.keep_running()
            assert self.agent is not None
            self.moments.kill(self.agent)

    def kill_workers(self, kills: int) -> None:
        self.rig.start_trainer(self.some_calls(1))
        for _ in range(kills):
            self.keep_running()
            assert self.worker is not None
            self.moments.kill(self.worker)


@pytest.mark.parametrize("nth", range(SEEDS))
@pytest.mark.parametrize("victim", ["trainer", "agent", "worker"])
def test_artifacts_arrive_whole_when_one_process_is_killed_repeatedly(
    victim: str,
    nth: int,
    open_rig: OpenRig,
    *,
    clickhouse_url: str,
    fault_seed: int,
    request: pytest.FixtureRequest,
) -> None:
    """One victim dies again and again; the result is the same, only later."""
    rng = random.Random(f"{fault_seed} {victim} {nth}")
    route, store = way(nth, WORKER_WAYS if victim == "worker" else WAYS)
    s3 = request.getfixturevalue(store) if store else None
    rig = open_rig(route, kafka=bool(store), s3=s3)
    plain = rig.plain()
    with Observer(rig.plain()) as observer:
        moments = Moments(rig, plain, rng)
        campaign = Campaign(rig, rng, moments)
        getattr(campaign, f"kill_{victim}s")(rng.randint(*KILLS))
        rig.wait("an acknowledged call", lambda: rig.acknowledged() > 0)
        campaign.keep_running()
        verdict = finish(rig, observer, clickhouse_url, kills=(moments.kills, moments.amid))
    plain.close()
    where = {"bucket": "versitygw", "minio_bucket": "MinIO", "": "folder"}[store]
    report.note(f"kill -9 of the {victim}", f"{route}, {where}", verdict)
    assert_whole(verdict)
