"""Artifacts from log_artifact to a file on another disk: embedded, and through Kafka into S3."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runwire_schemas.connections.s3 import S3Settings
from runwire_schemas.topics import TOPICS
from support.servers import Cluster
from support.topics import make_topics

pytestmark = pytest.mark.engine

ARRIVAL_S = 120.0
BLOB_BYTES = 3_000_000
TRAINER = f"""
import os, runwire
from pathlib import Path
with runwire.init(project="cats", run_id="maker") as run:
    for step in (1, 2, 3):
        run.log({{"loss": 1 / step}}, step=step)
        Path("weights.bin").write_bytes(bytes([step]) * {BLOB_BYTES})
        run.log_checkpoint("weights.bin", step, metrics={{"loss": 1 / step}}, is_best=step == 2)
    Path("set").mkdir()
    Path("set/a.txt").write_text("a")
    Path("set/b.txt").write_text("b")
    run.log_artifact("set", name="words", type="dataset", aliases=["prod"])
"""
USER = """
import runwire
with runwire.init(project="cats", run_id="user") as run:
    folder = run.use_artifact("words:prod").download("words")
    assert (folder / "b.txt").read_text() == "b", folder
    run.log({"loss": 1.0}, step=0)
"""
STATES = (
    "SELECT (SELECT groupArray((step, state)) FROM (SELECT * FROM v_checkpoints ORDER BY step)) "
    "AS checkpoints, (SELECT groupArray((name, state)) FROM v_artifacts WHERE type = 'dataset') "
    "AS artifacts"
)
DONE = {
    "checkpoints": [[1, "complete"], [2, "complete"], [3, "complete"]],
    "artifacts": [["words", "complete"]],
}


class Machine:
    """One machine of a user: a folder to work in, a data root, commands on the path."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        told = {"RUNWIRE_AGENT": "process", "RUNWIRE_CAPTURE_GIT": "0", **environment}
        self.env = os.environ | {"RUNWIRE_DIR": str(folder / "data"), **told}

    def python(self, code: str) -> None:
        self._run(sys.executable, "-c", code)

    def runwire(self, *words: str) -> str:
        return self._run(sys.executable, "-m", "runwire.cli", *words)

    def sql(self, query: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.runwire("sql", "--format", "json", query))
        return rows

    def wait_for(self, query: str, wanted: dict[str, Any]) -> None:
        end_s = time.monotonic() + ARRIVAL_S
        while (found := self.sql(query)) != [wanted]:
            assert time.monotonic() < end_s, f"{found}\n{self.runwire('status')}\n{self.logs()}"
            time.sleep(0.5)

    def wait_until_the_agent_left(self) -> None:
        end_s = time.monotonic() + ARRIVAL_S
        while json.loads(self.runwire("status", "--json"))["agent"]["alive"]:
            assert time.monotonic() < end_s, self.logs()
            time.sleep(0.5)

    def logs(self) -> str:
        files = sorted((self.folder / "data").rglob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text()[-2000:]}" for file in files)

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "trainer", {})
    yield made
    made.runwire("down")
    made.wait_until_the_agent_left()


def test_artifacts_pass_through_the_embedded_stack(machine: Machine, tmp_path: Path) -> None:
    """Trainer, views, lineage and commands agree; deleting the run deletes its content."""
    machine.runwire("up")
    machine.python(TRAINER)
    machine.wait_for(STATES, DONE)
    machine.python(USER)
    machine.wait_for(
        "SELECT run_id, produced_by, version FROM v_artifact_uses",
        {"run_id": "user", "produced_by": "maker", "version": 0},
    )
    check_reading(machine, tmp_path / "restored")

    machine.runwire("delete", "maker", "--project", "cats", "--yes")
    assert machine.sql("SELECT run_id FROM v_artifacts") == []
    assert json.loads(machine.runwire("artifact", "ls", "--project", "cats", "--json")) == []


def test_artifacts_pass_through_kafka_into_s3(
    tmp_path: Path, kafka: Cluster, topic_prefix: str, bucket: S3Settings
) -> None:
    """The trainer knows only the brokers; only the stack's object worker has the keys of S3."""
    brokers = kafka.settings.environment() | {"RUNWIRE_KAFKA_TOPIC_PREFIX": topic_prefix}
    groups = {
        "RUNWIRE_WORKER_GROUP": f"{topic_prefix}.history",
        "RUNWIRE_WORKER_OBJECTS_GROUP": f"{topic_prefix}.objects",
        "RUNWIRE_WORKER_BATCH_AGE_S": "0.3",
    }
    make_topics(kafka.settings, topic_prefix, TOPICS)
    center = Machine(tmp_path / "center", brokers | bucket.environment() | groups)
    trainer = Machine(tmp_path / "trainer", brokers)
    try:
        center.runwire("up")
        trainer.python(TRAINER)
        center.wait_for(STATES, DONE)
        routes = center.sql(
            "SELECT DISTINCT route, startsWith(uri, 's3://') AS s3 FROM v_artifacts"
        )
        assert routes == [{"route": "kafka", "s3": 1}]
        trainer.wait_until_the_agent_left()
        assert list((trainer.folder / "data" / "outbox").iterdir()) == []
    finally:
        center.runwire("down")
    check_reading(center, tmp_path / "restored")
    another = Machine(tmp_path / "another", bucket.environment())
    another.python(USER)
    another.wait_until_the_agent_left()


def check_reading(machine: Machine, into: Path) -> None:
    """The best checkpoint comes back as it was, from the store alone."""
    about = ("checkpoints", "maker", "--project", "cats")
    assert "all right" in machine.runwire(*about, "--verify")
    machine.runwire(*about, "--download", "best", "-o", str(into))
    digest = hashlib.sha256((into / "weights.bin").read_bytes()).hexdigest()
    assert digest == hashlib.sha256(b"\x02" * BLOB_BYTES).hexdigest()
    (words,) = json.loads(
        machine.runwire("artifact", "ls", "--project", "cats", "--type", "dataset", "--json")
    )
    assert (words["name"], words["version"], set(words["aliases"])) == (
        "words",
        0,
        {"latest", "prod"},
    )
