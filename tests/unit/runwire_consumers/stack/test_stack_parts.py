"""The stack's small parts: who holds a folder, when to restart, how logs stay small."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from runwire_consumers.commands import dead_letters
from runwire_consumers.stack import checkup, control, lock, logs, state, survey
from runwire_consumers.stack.backoff import MAX_DELAY_S, RestartPace
from runwire_consumers.stack.errors import StackError
from runwire_consumers.stack.finding import FAIL, OK, WARN
from runwire_consumers.stack.kafka_checkup import kafka_findings
from runwire_disk import paths


@pytest.fixture
def root(tmp_path):
    paths.embedded_dir(tmp_path).mkdir(parents=True)
    return tmp_path


def test_the_lock_names_its_holder_and_ends_with_it(root):
    """A second acquire fails while the first lives; a closed descriptor frees the folder."""
    held = lock.acquire(root, 0.0)
    assert held is not None
    found = lock.holder(root)
    assert found is not None
    assert found.pid == os.getpid()
    assert lock.acquire(root, 0.0) is None
    os.close(held)
    assert lock.holder(root) is None


def test_a_stale_file_names_nobody(root):
    """What a killed supervisor left in the file does not count: only the lock does."""
    lock.lock_file(root).write_text(json.dumps({"pid": os.getpid(), "created_at": 0.0}))
    assert lock.holder(root) is None


def test_a_reused_pid_is_not_the_holder(root):
    """The start time tells a process from a later one with its number."""
    assert not lock.alive(lock.Holder(pid=os.getpid(), created_at=1.0))


def test_backoff_doubles_up_to_its_cap_and_forgets_after_health():
    """Crashes in a row wait longer, never above the cap; a healthy minute starts anew."""
    backoff, now, delays = RestartPace(), 0.0, []
    for _ in range(10):
        backoff.started(now)
        delays.append(backoff.crashed(now + 1))
        assert not backoff.may_start(now + 1)
        now += 1 + delays[-1]
        assert backoff.may_start(now)
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY_S
    backoff.started(now)
    assert backoff.crashed(now + 120) == delays[0]


def test_a_capped_log_goes_on_at_its_new_end(tmp_path):
    """The writer keeps its descriptor; nothing but the size changes for it."""
    path = tmp_path / "x.log"
    writer = logs.open_log(path)
    try:
        os.write(writer, b"a" * 100)
        assert logs.cap(path, bytes_max=50)
        os.write(writer, b"b\n")
    finally:
        os.close(writer)
    assert path.read_bytes() == b"b\n"
    assert path.with_suffix(".log.1").read_bytes() == b"a" * 100


def test_state_round_trips_and_garbage_is_no_state(root):
    """A torn or foreign file reads as no state."""
    now = state.StackState(pid=7, stage=state.READY, worker=state.Part(pid=8, port=9))
    state.write_state(root, now)
    assert state.read_state(root) == now
    state.state_file(root).write_text("{")
    assert state.read_state(root) is None


def test_a_tied_child_does_not_start_for_a_dead_parent():
    """A child whose parent is already gone ends by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "runwire_consumers.stack.lifeline", "1", "9", "this"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "is gone" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_sentence(tmp_path):
    """The sentence names the folder and the two ways out."""
    tmp_path.chmod(0o500)
    with pytest.raises(StackError, match="--dir or RUNWIRE_DIR"):
        control.prepare(tmp_path / "data")


def test_a_file_in_the_way_is_a_sentence(tmp_path):
    """A data folder that is a file is named, without a traceback."""
    (tmp_path / "data").write_text("")
    with pytest.raises(StackError, match="cannot write to the data folder"):
        control.prepare(tmp_path / "data")


def test_stopping_nothing_says_so(root):
    """`down` without a stack changes nothing."""
    assert control.stop(root) is False


def test_the_survey_works_on_an_empty_folder(tmp_path):
    """Status of a folder that does not exist: everything down, nothing pending."""
    found = survey.survey(tmp_path / "none")
    assert not any(found[part]["alive"] for part in ("supervisor", "engine", "worker", "agent"))
    assert found["runs"] == []
    assert "`runwire up`" in survey.as_text(found)


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path):
    """The doctor never leaves a reader with a bare complaint."""
    findings = checkup.examine(tmp_path)
    assert {finding.level for finding in findings} <= {OK, WARN, FAIL}
    assert all(finding.advice for finding in findings if finding.level != OK)


def test_long_payloads_are_shown_shortened():
    """`dead-letters show` prints at most a screen of bytes."""
    assert len(dead_letters._hex(b"x" * 100_000)) < 1000


def test_the_doctor_asks_the_brokers() -> None:
    """No brokers named: no line. Nobody there: which setting to look at. No network is needed."""
    assert kafka_findings({}) == []
    (refused,) = kafka_findings({"RUNWIRE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    assert (refused.level, refused.check) == (FAIL, "kafka")
    assert "no Kafka broker answers at 127.0.0.1:1" in refused.advice
    half = {"RUNWIRE_KAFKA_BOOTSTRAP_SERVERS": "a:1", "RUNWIRE_KAFKA_SASL_USERNAME": "u"}
    assert "SASL_PASSWORD_FILE" in kafka_findings(half)[0].advice
