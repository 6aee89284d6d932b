"""`python -m runwire_consumers` as a process: waiting, signals, misuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runwire_disk.paths import embedded_dir
from support.pages import fetch
from support.spools import metric_log, new_writer

pytestmark = pytest.mark.process
NOBODY = "http://writer:secret@127.0.0.1:9/runwire"
WAIT_S = 30.0


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


def wait_ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and log."""
    _, log = process.communicate(timeout=WAIT_S)
    return process.returncode, log


def test_worker_waits_for_its_engine_and_leaves_in_time(tmp_path: Path) -> None:
    """Without an engine it logs that once, serves its pages, holds its folder, keeps the spool."""
    writer = new_writer(tmp_path)
    metric_log(writer).log({"a": 1.0})
    worker = start(tmp_path, NOBODY)
    journal = embedded_dir(tmp_path) / "journal" / "intents.log"
    until(journal, '"intent"')
    state = json.loads(until(embedded_dir(tmp_path) / "worker.json", "}"))
    assert state["pid"] == worker.pid
    status, body = fetch(state["metrics_port"], "/healthz")
    assert (status, json.loads(body)["pending"]) == (200, 1)
    status, log = wait_ended(start(tmp_path, NOBODY))
    assert status == 1
    assert "already reads this folder" in log
    worker.terminate()
    status, log = wait_ended(worker)
    assert status == 1
    assert "1 rows that were read are not committed" in log
    assert "secret" not in log
    assert log.count("trying again") == 1
    assert '"done"' not in journal.read_text()
    writer.close()


def test_wrong_setting_ends_with_status_2(tmp_path: Path) -> None:
    """Misuse is status 2 and a sentence that names the setting and its value."""
    status, log = wait_ended(start(tmp_path, NOBODY, RUNWIRE_WORKER_BATCH_ROWS="many"))
    assert status == 2
    assert "RUNWIRE_WORKER_BATCH_ROWS is 'many'" in log
