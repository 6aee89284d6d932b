"""`up` and `down` leave exactly what they print, whichever process dies in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from runwire_consumers.clickhouse.client import connect

pytestmark = pytest.mark.engine
WAIT_S = 90


def status(cli):
    return json.loads(cli("status", "--json").stdout)


def wait_for(what, timeout_s=WAIT_S):
    """Poll until `what()` is true; fails after the timeout."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.2)
    pytest.fail("it did not happen")


def test_up_status_and_down_agree_about_a_stack(cli):
    """up starts it, a second up reports it, status shows every part, down leaves no process."""
    first = cli("up")
    assert "next:" in first.stdout
    assert "runwire down" in first.stdout
    parts = status(cli)
    assert all(parts[name]["alive"] for name in ("supervisor", "engine", "worker"))
    second = cli("up")
    assert f"already running (pid {parts['supervisor']['pid']})" in second.stdout
    assert "runwire down" in second.stdout
    assert status(cli)["engine"]["pid"] == parts["engine"]["pid"]
    assert cli("sql", "--format", "json", "SELECT 1 AS one").stdout == '[\n{"one":1}\n]\n'
    doctor = json.loads(cli("doctor", "--json").stdout)
    assert not [finding for finding in doctor if finding["level"] == "fail"]
    assert "stopped the stack" in cli("down").stdout
    assert cli.processes() == []
    assert "nothing runs" in cli("down").stdout
    again = json.loads(cli("up", "--json").stdout)
    assert again["already_running"] is False


def test_stack_works_with_a_proxy_and_no_exception_for_loopback(cli):
    """Start, health, queries and checks reach this machine past a proxy that nobody serves."""
    proxy = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy"), "http://127.0.0.1:1")
    proxied = {**proxy, "no_proxy": "", "NO_PROXY": ""}
    cli("up", **proxied)
    parts = json.loads(cli("status", "--json", **proxied).stdout)
    assert all(parts[name]["alive"] for name in ("supervisor", "engine", "worker"))
    one = cli("sql", "--format", "json", "SELECT 1 AS one", **proxied)
    assert one.stdout == '[\n{"one":1}\n]\n'
    doctor = json.loads(cli("doctor", "--json", **proxied).stdout)
    assert not [finding for finding in doctor if finding["level"] == "fail"]
    cli("down", **proxied)


def test_a_killed_supervisor_leaves_nothing_to_repair(cli):
    """SIGKILL of the supervisor takes its children along; the next up just works."""
    cli("up")
    parts = status(cli)
    os.kill(parts["supervisor"]["pid"], signal.SIGKILL)
    cli("up")
    after = status(cli)
    assert after["supervisor"]["pid"] != parts["supervisor"]["pid"]
    assert after["engine"]["pid"] != parts["engine"]["pid"]
    # The worker ends its batch first, which may take longer than the next stack takes to start.
    wait_for(lambda: not psutil.pid_exists(parts["worker"]["pid"]))
    cli("sql", "SELECT 1")


@pytest.mark.parametrize("name", ["engine", "worker"])
def test_a_killed_child_is_started_again(cli, name):
    """SIGKILL of engine or worker: the supervisor starts it again, and status counts it."""
    cli("up")
    before = status(cli)[name]["pid"]
    os.kill(before, signal.SIGKILL)

    def restarted():
        part = status(cli)[name]
        return part["alive"] and part["pid"] not in {None, before} and part["restarts"] >= 1

    wait_for(restarted)
    cli("sql", "SELECT 1")


def test_two_ups_at_once_make_one_stack(cli):
    """Both succeed, and one reports that it is already running."""
    command = [sys.executable, "-m", "runwire.cli", "up", "--json", "--dir", str(cli.root)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [json.loads(process.communicate(timeout=WAIT_S * 2)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(answer["already_running"] for answer in answers) == [False, True]
    assert len({answer["supervisor_pid"] for answer in answers}) == 1


def test_ctrl_c_in_the_foreground_ends_everything(cli):
    """`up --foreground` stays until SIGINT, and nothing outlives it."""
    command = [sys.executable, "-m", "runwire.cli", "up", "--foreground", "--dir", str(cli.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("in the foreground"):
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
    assert cli.processes() == []


def test_ctrl_c_while_starting_leaves_nothing(cli):
    """An impatient user's Ctrl-C during the start takes the half-started stack down."""
    command = [sys.executable, "-m", "runwire.cli", "up", "--dir", str(cli.root)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "starting" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
    assert cli.processes() == []


def test_an_unusable_folder_is_a_sentence(cli):
    """up on a file names the folder and the ways to choose another, without a traceback."""
    cli.root.write_text("not a folder")
    done = cli("up", check=False)
    assert done.returncode == 1
    assert "--dir or RUNWIRE_DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failing_start_prints_reason_and_log(cli):
    """When the engine cannot start, up prints the reason and the end of its log."""
    (cli.root / "embedded").mkdir(parents=True)
    (cli.root / "embedded" / "data").write_text("in the way")
    done = cli("up", check=False)
    assert done.returncode == 1
    assert "did not start" in done.stderr
    assert "Traceback" not in done.stderr
    assert cli.processes() == []


def test_supervisor_stays_small_and_says_why_a_migration_failed(cli):
    """It migrates in a process that ends: no numpy stays, and the sentence of a failure comes."""
    cli("up")
    supervisor = psutil.Process(status(cli)["supervisor"]["pid"])
    assert not [area.path for area in supervisor.memory_maps() if "numpy" in area.path]
    url = json.loads((cli.root / "embedded" / "connection.json").read_text())["url"]
    client = connect(url)
    future = {"version": 9999, "name": "9999_future", "checksum": "other"}
    client.insert("schema_migrations", [list(future.values())], column_names=list(future))
    client.close()
    cli("down")
    done = cli("up", check=False)
    assert done.returncode == 1
    assert "was migrated by a newer runwire (migration 9999)" in done.stderr
    assert "Traceback" not in done.stderr
    assert cli.processes() == []


def test_up_starts_an_agent_for_a_trainer_that_has_none(cli):
    """Another one when it is killed; a SIGKILL of the trainer is recorded."""
    code = (
        "import runwire, time\n"
        "run = runwire.init(project='p', run_id='victim')\n"
        "run.log({'a': 1}); print('ready', flush=True); time.sleep(600)\n"
    )
    environment = {**os.environ, "RUNWIRE_DIR": str(cli.root)}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    ) as trainer:
        try:
            assert trainer.stdout is not None
            assert trainer.stdout.readline() == "ready\n"
            assert status(cli)["agent"]["alive"] is False
            cli("up")
            wait_for(lambda: status(cli)["agent"]["alive"])
            os.kill(status(cli)["agent"]["pid"], signal.SIGKILL)
            wait_for(lambda: not status(cli)["agent"]["alive"])
            wait_for(lambda: status(cli)["agent"]["alive"])
        finally:
            trainer.kill()

    def ended():
        rows = json.loads(cli("runs", "--json").stdout)
        return [row["status"] for row in rows] == ["killed"]

    wait_for(ended)


def test_points_logged_without_a_stack_arrive_later(cli):
    """Logging works before `up`; the next stack stores every point and empties the spool."""
    cli.train(
        "import runwire\n"
        "run = runwire.init(project='p', run_id='early', config={'lr': 0.1})\n"
        "for step in range(50): run.log({'loss': 1.0 / (step + 1)})\n"
        "run.finish()\n"
    )
    waiting = status(cli)["runs"]
    assert [(run["run_id"], run["pending_points"]) for run in waiting] == [("early", 50)]
    cli("up")
    wait_for(lambda: not sum(run["pending_points"] for run in status(cli)["runs"]))
    answer = cli("sql", "--format", "csv", "SELECT count() AS n, max(step) AS s FROM v_metrics")
    assert answer.stdout.splitlines()[1] == "50,49"
    wait_for(lambda: not status(cli)["runs"])  # a delivered folder is removed after a grace


def test_stack_removes_deleted_rows_and_applies_rules_by_itself(cli):
    """Nobody waits: the rows of a deleted run go, and a rule deletes another, round by round."""
    cli("up", RUNWIRE_WORKER_HOUSEKEEPING_S="1")
    for name in ("gone", "old", "kept"):
        cli.train(
            "import runwire\n"
            f"with runwire.init(project='p', run_id='{name}', tags={{'{name}': ''}}) as run:\n"
            "    run.log({'a': 1})"
        )
    finished = "SELECT count() AS n FROM v_runs WHERE status = 'finished'"
    wait_for(lambda: json.loads(cli("sql", "--json", finished).stdout) == [{"n": 3}])
    (cli.root / "retention.toml").write_text("[[rule]]\nolder_than = 3")
    assert "gone" in cli("delete", "gone", "--yes").stdout

    def rows_left():
        return json.loads(cli("delete", "gone", "--json").stdout)["rows_left"]

    wait_for(lambda: rows_left() == 0)
    log = cli.root / "embedded/logs/housekeeper.log"
    assert "retention.toml" in log.read_text()
    (cli.root / "retention.toml").write_text(
        '[[rule]]\nolder_than = "0s"\ntag = "old"\naction = "delete"\n'
    )
    runs = "SELECT run_id FROM v_runs"
    wait_for(lambda: json.loads(cli("sql", "--json", runs).stdout) == [{"run_id": "kept"}])
    assert json.loads(cli("delete", "old", "--wait", "--json").stdout)["rows_left"] == 0
