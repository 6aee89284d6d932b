"""Servers killed in the middle of transfers: everything arrives once they are back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from faults.objects import report
from faults.objects.conftest import OpenRig
from faults.objects.finish import finish
from faults.objects.form import AMID_BYTES, LONG, only_long
from faults.objects.moments import Moments
from faults.objects.observer import Observer
from faults.objects.rig import Rig
from faults.objects.verdict import Verdict, assert_whole
from runwire_schemas.connections.s3 import S3Settings
from support.servers import Cluster, ObjectStore

pytestmark = pytest.mark.engine

SEEDS = 6 if LONG else 1
AWAY_S = (0.5, 8.0) if LONG else (1.0, 2.0)


def outage(
    rig: Rig, rng: random.Random, go: Callable[[], None], come: Callable[[], None], *, url: str
) -> Verdict:
    """Two large artifacts and small ones; the server goes amid them."""
    plain = rig.plain()
    with Observer(rig.plain()) as observer:
        moments = Moments(rig, plain, rng)
        calls = [("file", AMID_BYTES), ("folder", 0), ("file", AMID_BYTES), ("bytes", 10)]
        rig.start_trainer([rig.calls.call(kind, size) for kind, size in calls])
        rig.start_agent()
        if rig.route == "kafka":
            rig.start_worker(member="one")
        moments.wait(lambda: True)
        amid = moments.is_amid()
        go()
        try:
            time.sleep(rng.uniform(*AWAY_S))
        finally:
            come()
        rig.wait("all calls", lambda: rig.acknowledged() == len(calls))
        verdict = finish(rig, observer, url, kills=(1, int(amid)))
    plain.close()
    return verdict


@pytest.mark.parametrize("nth", range(SEEDS))
def test_artifacts_arrive_whole_when_the_broker_is_killed(
    nth: int, open_rig: OpenRig, kafka: Cluster, bucket: S3Settings,
    *, clickhouse_url: str, fault_seed: int,
) -> None:  # fmt: skip
    """Acknowledged pieces are there, the others are sent again."""
    rng = random.Random(f"{fault_seed} broker {nth}")
    rig = open_rig("kafka", s3=bucket)
    verdict = outage(rig, rng, kafka.kill, kafka.start, url=clickhouse_url)
    report.note("the broker is killed and comes back", "kafka, versitygw", verdict)
    assert_whole(verdict)


@pytest.mark.parametrize("nth", range(SEEDS))
@pytest.mark.parametrize("route", [only_long("direct"), "kafka"])
@pytest.mark.parametrize("name", ["s3", only_long("minio")])
def test_artifacts_arrive_whole_when_the_store_is_killed(
    name: str, route: str, nth: int, open_rig: OpenRig,
    *, clickhouse_url: str, fault_seed: int, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """The S3 server is killed during a multipart upload or a join."""
    rng = random.Random(f"{fault_seed} {name} {route} {nth}")
    server: ObjectStore = request.getfixturevalue(name)
    s3: S3Settings = request.getfixturevalue({"s3": "bucket", "minio": "minio_bucket"}[name])
    rig = open_rig(route, s3=s3)
    kill, start = server.server.kill, server.server.start
    verdict = outage(rig, rng, kill, start, url=clickhouse_url)
    where = {"s3": "versitygw", "minio": "MinIO"}[name]
    report.note("the store is killed and comes back", f"{route}, {where}", verdict)
    assert_whole(verdict)
