"""Resumed runs: the last step of a killed trainer, living writers, and what others know."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import runwire
from runwire.job import earlier_runs
from runwire_disk.spool.reader import FolderReader, list_folders
from support.spooled import points, run_events

TRAINER = """
import os, signal, sys
import runwire
run = runwire.init("p", run_id="r")
for n in range(5):
    run.log({"a": float(n)})
if sys.argv[1] == "waits":
    print("ready", flush=True)
    sys.stdin.readline()
    run.log({"a": 5.0})
else:
    os.kill(os.getpid(), int(sys.argv[1]))
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root, no agent."""
    monkeypatch.setenv("RUNWIRE_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("RUNWIRE_CAPTURE_GIT", "0")
    return tmp_path / "data"


def deliver(root: Path) -> None:
    """Read every folder to its end and delete it, as the worker or agent does."""
    for folder in list_folders(root):
        reader = FolderReader(folder)
        while cuts := reader.cut():
            for cut in cuts:
                reader.advance(cut.series, cut.last_seq + 1, batch_seq=cut.batch_seq + 1)
        reader.save()
        reader.remove()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("is_delivered", [False, True], ids=["spooled", "delivered"])
def test_implicit_steps_go_on_after_a_signal(
    root: Path, signum: signal.Signals, *, is_delivered: bool
) -> None:
    """From the spool of the killed trainer, or from the note that its reader left."""
    killed = subprocess.run([sys.executable, "-c", TRAINER, str(int(signum))], check=False)
    assert killed.returncode == -signum
    if is_delivered:
        deliver(root)
        assert list_folders(root) == []
    with runwire.init("p", run_id="r", resume="must") as run:
        assert run.step == 5
        run.log({"a": 5.0})
    assert max(points(root)["r", "a"]) == (5, 5.0)


def test_other_runs_with_a_longer_name_are_not_mistaken(root: Path) -> None:
    """Folder names only begin with the run id; the identity inside decides."""
    with runwire.init("p", run_id="r-r0-x") as run:
        run.log({"a": 1.0}, 100)
    with runwire.init("other", run_id="r") as run:
        run.log({"a": 1.0}, 100)
    with runwire.init("p", run_id="r") as run:
        assert run.step == 0


def test_second_writer_of_a_living_run_is_logged_and_joins_its_attempt(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Points of one attempt never hide each other."""
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER, "waits"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdin is not None
        assert trainer.stdout.readline() == "ready\n"
        with caplog.at_level(logging.WARNING), runwire.init("p", run_id="r") as run:
            run.log({"b": 1.0})
        trainer.communicate("\n")
    assert f"process {trainer.pid} " in caplog.text
    assert "RUNWIRE_RUN_ID" in caplog.text
    assert len({event.attempt for event in run_events(root, "r")}) == 1
    assert points(root)["r", "b"] == [(0, 1.0)]
    with pytest.raises(runwire.ConfigError, match="exists already"):
        runwire.init("p", run_id="r", resume="never")


def test_resume_must_without_any_trace_names_what_was_asked(root: Path) -> None:
    """The sentence names the data root and the settings for another machine."""
    with pytest.raises(runwire.ConfigError, match="RUNWIRE_S3_ENDPOINT") as caught:
        runwire.init("p", run_id="r", resume="must")
    assert str(root) in str(caught.value)
    assert list_folders(root) == []


def test_resume_must_with_an_unreachable_clickhouse_says_so(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is then unknown whether the run exists; "allow" goes on with a warning."""
    monkeypatch.setenv("RUNWIRE_CLICKHOUSE_URL", "http://127.0.0.1:9/runwire")
    with pytest.raises(runwire.ConfigError, match="ClickHouse could not be asked"):
        runwire.init("p", run_id="r", resume="must")
    with runwire.init("p", run_id="r", resume="allow") as run:
        assert run.step == 0


def test_resume_gives_up_on_a_server_that_accepts_and_says_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The start waits for a bounded time, whatever the server's client would wait."""
    monkeypatch.setattr(earlier_runs, "LOOKUP_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/runwire"
        monkeypatch.setenv("RUNWIRE_CLICKHOUSE_URL", url)
        with pytest.raises(runwire.ConfigError, match="ClickHouse could not be asked: no answer"):
            runwire.init("p", run_id="r", resume="must")
        with caplog.at_level(logging.WARNING, "runwire"):
            runwire.init("p", run_id="r", resume="allow").finish()
    assert "counts as new" in caplog.text


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_rank_that_starts_after_rank_0_resumes_at_the_same_step(
    root: Path, monkeypatch: pytest.MonkeyPatch, resume: str
) -> None:
    """Rank 0 has noted the new attempt already, and the spool of the earlier one is delivered."""
    with runwire.init("p", run_id="r") as run:
        run.log({"a": 1.0}, 6)
    deliver(root)
    steps = []
    for rank in ("0", "1"):
        for name in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(name, rank)
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.setenv(name, "2")
        monkeypatch.setattr("runwire.start._started", 0)  # as in a process of its own
        with runwire.init("p", run_id="r", resume=resume) as run:
            steps.append(run.step)
    assert steps == [7, 7]


def test_same_id_again_in_one_process_continues_as_a_new_attempt(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a notebook cell that runs twice: the open run ends first, and is no living writer."""
    first = runwire.init("p", run_id="r")
    first.log({"a": 1.0})
    with runwire.init("p", run_id="r") as run:
        assert not first.is_active
        assert run.step == 1
        run.log({"a": 2.0})
    assert "is writing to run" not in caplog.text
    assert len({event.attempt for event in run_events(root, "r")}) == 2
    assert sorted(points(root)["r", "a"]) == [(0, 1.0), (1, 2.0)]
