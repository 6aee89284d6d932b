"""Two runs of two ranks through a real broker while each process on the way is killed once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
import pytest
from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse.client import connect
from runwire_disk.agents.lock import AgentLock
from runwire_disk.paths import agents_dir
from runwire_schemas.topics import TOPICS
from support import harness_worker
from support.faults import tail, wait_for
from support.servers import Cluster
from support.topics import make_topics

STEPS = 400
NAMES = 5
# Says after each call how many returned: what the trainer may rely on.
TRAINER = f"""
import os, sys, time
import runwire
acks, pause_s = sys.argv[1], float(sys.argv[2])
run = runwire.init("e2e", config={{"lr": 0.1}})
with open(acks, "wb", buffering=0) as told:
    for step in range({STEPS}):
        run.log({{f"m{{i}}": step + i / 8 for i in range({NAMES})}}, step)
        told.write(b".")
        time.sleep(pause_s)
run.finish()
"""


class Pipeline:
    """The processes of this test; ends what is left of them."""

    def __init__(self, root: Path, environ: dict[str, str]) -> None:
        self.root, self.environ = root, os.environ | environ
        self.processes: list[subprocess.Popen[bytes]] = []
        self.log = root / "processes.log"

    def start(self, *command: str, **environ: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command], env=self.environ | environ, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def trainer(self, run_id: str, rank: int, pause_s: float) -> subprocess.Popen[bytes]:
        acks = self.root / f"{run_id}.{rank}.acks"
        acks.touch()
        job = {"RANK": str(rank), "WORLD_SIZE": "2", "RUNWIRE_RUN_ID": run_id}
        return self.start("-c", TRAINER, str(acks), str(pause_s), **job)

    def acked(self, run_id: str, rank: int) -> int:
        return (self.root / f"{run_id}.{rank}.acks").stat().st_size

    def worker(self, kill_at: str = "") -> subprocess.Popen[bytes]:
        if kill_at:
            _, *arguments = harness_worker.command(kill_at=kill_at)
            return self.start(*arguments, **harness_worker.environment())
        return self.start("-m", "runwire_consumers", "clickhouse", "--metrics-port", "0")

    def agent_pid(self) -> int:
        found = [
            int(path.read_text())
            for path in agents_dir(self.root).glob("*.lock")
            if path.read_text().strip()
        ]
        return found[0] if found else 0

    def has_agent(self) -> bool:
        locks = list(agents_dir(self.root).glob("*.lock"))
        return any(AgentLock(path).held() for path in locks)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        with contextlib.suppress(psutil.Error):  # the trainers above started it; it may be gone
            agent = psutil.Process(self.agent_pid())
            if str(self.root) in agent.cmdline():
                agent.kill()
                agent.wait(10)


@pytest.fixture
def pipeline(
    tmp_path: Path, kafka: Cluster, topic_prefix: str, clickhouse_url: str
) -> Iterator[Pipeline]:
    """Topics, an empty database and the environment that names them."""
    make_topics(kafka.settings, topic_prefix, TOPICS)
    pipeline = Pipeline(
        tmp_path,
        kafka.settings.environment()
        | {
            "RUNWIRE_KAFKA_TOPIC_PREFIX": topic_prefix,
            "RUNWIRE_CLICKHOUSE_URL": clickhouse_url,
            "RUNWIRE_DIR": str(tmp_path),
            "RUNWIRE_AGENT": "process",
            "RUNWIRE_CAPTURE_GIT": "0",
            "RUNWIRE_WORKER_GROUP": topic_prefix,
            "RUNWIRE_WORKER_SESSION_TIMEOUT_S": "6",
            "RUNWIRE_WORKER_BATCH_AGE_S": "0.3",
        },
    )
    yield pipeline
    pipeline.close()


def test_points_and_statuses_are_right_when_every_process_is_killed_once(
    pipeline: Pipeline, kafka: Cluster, clickhouse_url: str
) -> None:
    """Worker mid-batch, agent mid-flush, one trainer, the broker: each point once, right status."""
    client = connect(clickhouse_url)
    doomed = pipeline.worker(kill_at="after-insert:3")
    trainers = {
        (run_id, rank): pipeline.trainer(run_id, rank, pause_s=0.02)
        for run_id in ("run-a", "run-b")
        for rank in (0, 1)
    }
    until(pipeline, "the first steps", lambda: min_acked(pipeline, trainers) >= 40)
    until(pipeline, "an agent", lambda: pipeline.agent_pid() > 0)
    os.kill(pipeline.agent_pid(), signal.SIGKILL)
    trainers["run-b", 1].kill()
    trainers["run-b", 1].wait()
    # Unless a trainer's own one was quicker.
    pipeline.start("-m", "runwire_agent", "--dir", str(pipeline.root), "--exit-when-idle")
    until(pipeline, "the worker's own kill", lambda: doomed.poll() is not None)
    assert doomed.returncode == -signal.SIGKILL
    worker = pipeline.worker()
    until(pipeline, "half of the steps", lambda: min_acked(pipeline, [("run-a", 0)]) >= STEPS // 2)
    kafka.restart()
    for key, trainer in trainers.items():
        if key != ("run-b", 1):
            assert trainer.wait(120) == 0, tail(pipeline.log)
    until(pipeline, "every point", lambda: is_complete(client, pipeline, trainers))
    for run_id, rank in trainers:
        acked = pipeline.acked(run_id, rank)
        calls, points, total = stored(client, run_id, rank)
        killed = (run_id, rank) == ("run-b", 1)
        assert acked <= calls <= acked + killed  # the last call may have been accepted unsaid
        assert points == calls * NAMES
        assert total == sum(step + i / 8 for step in range(calls) for i in range(NAMES))
    until(pipeline, "both ends", lambda: "running" not in statuses(client).values())
    assert statuses(client) == {"run-a": "finished", "run-b": "killed"}
    until(pipeline, "the agent to leave", lambda: not pipeline.has_agent())
    assert not list((pipeline.root / "spool").glob("[!.]*")), "everything was delivered"
    worker.terminate()
    assert worker.wait(60) == 0, tail(pipeline.log)
    client.close()


def until(pipeline: Pipeline, what: str, ready: Callable[[], bool]) -> None:
    wait_for(what, ready, log=pipeline.log, every_s=0.1)


def min_acked(pipeline: Pipeline, keys: Iterable[tuple[str, int]]) -> int:
    return min(pipeline.acked(*key) for key in keys)


def is_complete(client: Client, pipeline: Pipeline, keys: Iterable[tuple[str, int]]) -> bool:
    """Whether all acknowledged points are stored and v_completeness misses none."""
    found = client.query("SELECT count(), sum(pending), min(accepted) FROM v_completeness")
    ranks, pending, least = found.result_rows[0]
    if ranks != 4 or pending or not least:
        return False
    return all(stored(client, *key)[0] >= pipeline.acked(*key) for key in keys)


def stored(client: Client, run_id: str, rank: int) -> tuple[int, int, float]:
    """(calls, points, sum of values) as people see them; each point exists once below too."""
    query = (
        "SELECT uniqExact(seq), count(), sum(value), uniqExact(metric, writer_key, seq) "
        "FROM v_metrics WHERE run_id = %(run)s AND rank = %(rank)s"
    )
    calls, points, total, distinct = client.query(
        query, parameters={"run": run_id, "rank": rank}
    ).result_rows[0]
    assert points == distinct
    return calls, points, total


def statuses(client: Client) -> dict[str, str]:
    return dict(client.query("SELECT run_id, status FROM v_runs").result_rows)
