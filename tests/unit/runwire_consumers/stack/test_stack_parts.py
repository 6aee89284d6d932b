"""The small parts of the stack: its lock, restarts, logs, state file, sections and checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from runwire import cli
from runwire_consumers.core.dead_letters import FileDeadLetters, letter_of
from runwire_consumers.stack import checkup, control, lock, logs, state, survey
from runwire_consumers.stack.kafka_checkup import kafka_findings
from runwire_consumers.stack.state import StackError
from runwire_consumers.stack.supervisor import MAX_DELAY_S, RestartDelay
from runwire_disk import paths
from runwire_disk.paths import letters_dir
from runwire_disk.survey import FAIL, OK, WARN
from support.builders import AT_NS, metric_batch, record
from support.shipping import kafka_writer
from support.spools import new_writer


@pytest.fixture
def root(tmp_path):
    paths.embedded_dir(tmp_path).mkdir(parents=True)
    return tmp_path


def test_stack_lock_names_its_holder_and_ends_with_it(root):
    """A second acquire fails while the first lives; a closed descriptor frees the folder."""
    held = lock.acquire(root, 0.0)
    assert held is not None
    found = lock.holder(root)
    assert found is not None
    assert found.pid == os.getpid()
    assert lock.acquire(root, 0.0) is None
    os.close(held)
    assert lock.holder(root) is None


def test_a_stale_lock_file_names_no_holder(root):
    """The text that a killed supervisor left does not count: only the lock does."""
    lock.lock_file(root).write_text(json.dumps({"pid": os.getpid(), "created_at": 0.0}))
    assert lock.holder(root) is None


def test_a_reused_pid_is_not_the_holder(root):
    """The start time tells a process from a later one with its number."""
    assert not lock.alive(lock.Holder(pid=os.getpid(), created_at=1.0))


def test_restart_delay_doubles_up_to_its_cap_and_resets_after_health():
    """Crashes in a row wait longer, never above the cap; a healthy minute starts anew."""
    delay, now, delays = RestartDelay(), 0.0, []
    for _ in range(10):
        delay.started(now)
        delays.append(delay.crashed(now + 1))
        assert not delay.may_start(now + 1)
        now += 1 + delays[-1]
        assert delay.may_start(now)
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY_S
    delay.started(now)
    assert delay.crashed(now + 120) == delays[0]


def test_a_capped_log_continues_at_its_new_end(tmp_path):
    """The writer keeps its descriptor; nothing but the size changes for it."""
    path = tmp_path / "x.log"
    writer = logs.open_log(path)
    try:
        os.write(writer, b"a" * 100)
        assert logs.cap_log(path, bytes_max=50)
        os.write(writer, b"b\n")
    finally:
        os.close(writer)
    assert path.read_bytes() == b"b\n"
    assert path.with_suffix(".log.1").read_bytes() == b"a" * 100


def test_state_round_trips_and_garbage_reads_as_none(root):
    """A torn or foreign file reads as no state."""
    now = state.StackState(pid=7, stage=state.READY, worker=state.ChildState(pid=8, port=9))
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
def test_a_read_only_folder_is_one_sentence(tmp_path):
    """The sentence names the folder and the two ways out."""
    tmp_path.chmod(0o500)
    with pytest.raises(StackError, match="--dir or RUNWIRE_DIR"):
        control.prepare(tmp_path / "data")


def test_a_file_as_data_folder_is_one_sentence(tmp_path):
    """A data folder that is a file is named, without a traceback."""
    (tmp_path / "data").write_text("")
    with pytest.raises(StackError, match="cannot write to the data folder"):
        control.prepare(tmp_path / "data")


def test_stop_without_a_stack_returns_false(root):
    """`down` without a stack changes nothing."""
    assert control.stop(root) is False


def test_the_section_of_a_missing_folder_shows_everything_down(tmp_path):
    """Status of a folder that does not exist names the command that starts the stack."""
    section = survey.survey_stack(tmp_path / "none")
    assert not any(section.facts[part]["alive"] for part in ("supervisor", "engine", "worker"))
    assert section.facts["objects"] is None
    assert "`runwire up`" in section.lines[-1]


def test_the_stack_is_not_missed_where_everything_goes_to_brokers(tmp_path):
    """A trainer node of a cluster needs no stack, so status does not advise to start one."""
    kafka_writer(tmp_path).close()
    assert not any("`runwire up`" in line for line in survey.survey_stack(tmp_path).lines)
    new_writer(tmp_path).close()
    assert any("`runwire up`" in line for line in survey.survey_stack(tmp_path).lines)


def test_every_finding_that_is_not_ok_has_advice(tmp_path):
    """The doctor never leaves a reader with a bare complaint."""
    findings = checkup.check_stack(tmp_path).findings
    assert {finding.level for finding in findings} <= {OK, WARN, FAIL}
    assert all(finding.advice for finding in findings if finding.level != OK)


def test_a_long_payload_is_shown_shortened(tmp_path, capsys):
    """`dead-letters show` prints at most a screen of bytes."""
    kept = FileDeadLetters(letters_dir(tmp_path))
    record_of_100_kb = record(metric_batch(), 0, value=b"x" * 100_000)
    kept.put(letter_of(record_of_100_kb, "damaged", at_ns=AT_NS))
    kept.flush()
    assert cli.main(["dead-letters", "show", "--all", "--dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "more bytes" in shown
    assert len(shown) < 2000


def test_doctor_checks_the_brokers_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No brokers named: no finding. No answer: the setting to look at. Needs no network."""
    monkeypatch.setattr("runwire_consumers.kafka.admin.ADMIN_REQUEST_S", 1.0)
    assert kafka_findings({}) == []
    (refused,) = kafka_findings({"RUNWIRE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    assert (refused.level, refused.check) == (FAIL, "kafka")
    assert "no Kafka broker answers at 127.0.0.1:1" in refused.advice
    half = {"RUNWIRE_KAFKA_BOOTSTRAP_SERVERS": "a:1", "RUNWIRE_KAFKA_SASL_USERNAME": "u"}
    assert "SASL_PASSWORD_FILE" in kafka_findings(half)[0].advice
