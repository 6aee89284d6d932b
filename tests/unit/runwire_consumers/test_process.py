"""The worker as a process: settings, pages, lazy sink, signals, kill points."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from runwire_consumers.compose.workers import LazySink, embedded_url
from runwire_consumers.core import kill_points
from runwire_consumers.core.clock import MemoryClock
from runwire_consumers.core.deadline import Deadline
from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.health import Health, HealthServer
from runwire_consumers.core.selfmetrics import SelfMetrics
from runwire_consumers.core.sink import MemorySink, MemoryStore
from runwire_consumers.settings import WorkerSettings, from_environment
from runwire_disk.paths import connection_file, embedded_dir
from support.builders import batch_of, metric_record
from support.spools import metric_log, new_writer

NOBODY = "http://writer:secret@127.0.0.1:9/runwire"
WAIT_S = 30.0


def test_settings_come_from_the_environment() -> None:
    """Unset and empty keep the default; types are those of the defaults."""
    assert from_environment({"RUNWIRE_WORKER_BATCH_ROWS": ""}) == WorkerSettings()
    found = from_environment(
        {"RUNWIRE_WORKER_BATCH_AGE_S": "0.5", "RUNWIRE_WORKER_METRICS_PORT": "0"}
    )
    assert (found.batch_age_s, found.metrics_port) == (0.5, 0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BATCH_ROWS", "many"),
        ("BATCH_ROWS", "1.5"),
        ("SHUTDOWN_S", "-1"),
        ("SHUTDOWN_S", "nan"),
        ("PROTOCOL", "sometimes"),
    ],
)
def test_a_wrong_setting_is_named(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"environment variable RUNWIRE_WORKER_{name} is "):
        from_environment({f"RUNWIRE_WORKER_{name}": text})


def fetch(port: int, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_pages_tell_state_and_metrics() -> None:
    """/healthz is 200 with the state, 503 when rows wait too long; /metrics is Prometheus text."""
    clock, metrics = MemoryClock(), SelfMetrics()
    health = Health(clock, stuck_after_s=60)
    server = HealthServer(health, metrics, 0)
    try:
        health.state = "running"
        metrics.add("runwire_worker_points_total", 5)
        health.wrote()
        clock.advance(2)
        status, body = fetch(server.port, "/healthz")
        expected = {"state": "running", "last_write_age_s": 2.0, "pending": 0}
        assert (status, json.loads(body)) == (200, expected)
        health.pending = 3
        clock.advance(60)
        status, body = fetch(server.port, "/healthz")
        assert (status, json.loads(body)["state"]) == (503, "stuck")
        assert "runwire_worker_points_total 5.0" in fetch(server.port, "/metrics")[1]
        assert fetch(server.port, "/")[0] == 404
    finally:
        server.close()


def test_a_lazy_sink_follows_the_address() -> None:
    """It opens at the first write; when the engine moved, the next try goes to the new address."""
    opened: list[str] = []
    address = ["first"]
    store = MemoryStore()

    def open_sink(url: str) -> MemorySink:
        opened.append(url)
        sink = MemorySink(store)
        sink.failures = [Retryable(0.1, "away")] if url == "first" else []
        return sink

    sink = LazySink(lambda: address[0], open_sink)
    assert opened == []
    address[0] = "first"
    batch = batch_of([metric_record(0)])
    with pytest.raises(Retryable):
        sink.write(batch)
    sink.write(batch)
    assert opened == ["first"]
    moved = LazySink(lambda: address[0], open_sink)

    def moving(_: object) -> None:
        address[0] = "second"
        raise Retryable(0.1, "away")

    with pytest.raises(Retryable):
        moved._with_sink(moving)
    moved.write(batch)
    assert opened == ["first", "first", "second"]
    moved.close(Deadline(1))


def test_an_engine_that_is_not_up_yet_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(Retryable, match="runwire up"):
        embedded_url(tmp_path)
    path = connection_file(tmp_path)
    path.parent.mkdir()
    path.write_text('{"url": "http://x/y"}')
    assert embedded_url(tmp_path) == "http://x/y"


def test_kill_points_are_checked() -> None:
    with pytest.raises(ValueError, match="before-intent"):
        kill_points.arm("somewhere:1")
    kill_points.arm("")
    kill_points.reach("after-insert")


def start(root: Path, url: str, **environ: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runwire_consumers", "clickhouse", "--dir", str(root)]
    return subprocess.Popen(
        [*command, "--url", url],
        env={**os.environ, "RUNWIRE_WORKER_SHUTDOWN_S": "0.5", **environ},
        stderr=subprocess.PIPE,
        text=True,
    )


def until(path: Path, text: str) -> str:
    """Wait until a file holds a text; its content."""
    end_s = time.monotonic() + WAIT_S
    while time.monotonic() < end_s:
        found = path.read_text() if path.exists() else ""
        if text in found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{text!r} never came to {path}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and what it said."""
    _, said = process.communicate(timeout=WAIT_S)
    return process.returncode, said


def test_a_worker_waits_for_its_engine_and_leaves_in_time(tmp_path: Path) -> None:
    """Nobody answers: it says so once, answers, refuses a second worker, keeps the spool."""
    writer = new_writer(tmp_path)
    metric_log(writer).log({"a": 1.0})
    worker = start(tmp_path, NOBODY)
    journal = embedded_dir(tmp_path) / "journal" / "intents.log"
    until(journal, '"intent"')
    state = json.loads(until(embedded_dir(tmp_path) / "worker.json", "}"))
    assert state["pid"] == worker.pid
    status, body = fetch(state["metrics_port"], "/healthz")
    assert (status, json.loads(body)["pending"]) == (200, 1)
    status, said = ended(start(tmp_path, NOBODY))
    assert status == 1
    assert "already reads this folder" in said
    worker.terminate()
    status, said = ended(worker)
    assert status == 1
    assert "1 rows that were read are not committed" in said
    assert "secret" not in said
    assert said.count("trying again") == 1
    assert '"done"' not in journal.read_text()
    writer.close()


def test_a_kill_point_kills(tmp_path: Path) -> None:
    """The harness's switch: dead by SIGKILL after the intent, which the next start finds."""
    writer = new_writer(tmp_path)
    metric_log(writer).log({"a": 1.0})
    environ = {"RUNWIRE_WORKER_KILL_AT": "after-intent:1", "RUNWIRE_WORKER_METRICS_PORT": "0"}
    status, _ = ended(start(tmp_path, NOBODY, **environ))
    assert status == -signal.SIGKILL
    assert '"intent"' in (embedded_dir(tmp_path) / "journal" / "intents.log").read_text()
    writer.close()


def test_misuse_is_status_2(tmp_path: Path) -> None:
    status, said = ended(start(tmp_path, NOBODY, RUNWIRE_WORKER_BATCH_ROWS="many"))
    assert status == 2
    assert "RUNWIRE_WORKER_BATCH_ROWS is 'many'" in said
