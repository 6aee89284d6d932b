"""The read commands on runs that a real trainer logged into a real stack."""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import replace

import pyarrow as pa
import pytest

from runwire_consumers.core.dead_letters import FileDeadLetters, letter_of
from runwire_disk.paths import letters_dir
from support.builders import AT_NS, metric_batch, record

pytestmark = pytest.mark.engine

TRAIN = """
import math, runwire
for number, name in enumerate(["alpha", "beta"]):
    run = runwire.init(project="p", run_id=f"run-{number}", name=name,
                       config={"lr": 0.1, "opt": {"name": "adam"}}, tags={"team": "red"})
    for step in range(40):
        run.log({"train/loss": 2.0 / (step + 1), "nan": math.nan, "lr": 0.1})
    run.finish()
"""


def _arrived(stack):
    waiting = json.loads(stack("status", "--json").stdout)["runs"]
    ended = json.loads(stack("runs", "--json", "--status", "finished").stdout)
    return not sum(run["pending_points"] for run in waiting) and len(ended) == 2


@pytest.fixture(scope="module")
def logged(stack):
    """The stack after two finished runs of 120 points each have arrived."""
    stack.train(TRAIN)
    deadline = time.monotonic() + 60
    while not _arrived(stack):
        assert time.monotonic() < deadline, "the points did not arrive"
        time.sleep(0.3)
    return stack


def test_sql_prints_the_same_answer_in_every_format(logged):
    """table, csv, json and arrow carry the same two rows."""
    query = "SELECT run_id, count() AS n FROM v_metrics GROUP BY run_id ORDER BY run_id"
    expected = [("run-0", 120), ("run-1", 120)]
    rows = csv.DictReader(io.StringIO(logged("sql", "--format", "csv", query).stdout))
    assert [(row["run_id"], int(row["n"])) for row in rows] == expected
    rows = json.loads(logged("sql", "--json", query).stdout)
    assert [(row["run_id"], row["n"]) for row in rows] == expected
    table = logged("sql", query).stdout.splitlines()
    assert table[2:] == ["run-0   120", "run-1   120"]


def test_sql_arrow_is_a_readable_stream(logged, tmp_path):
    """The arrow bytes open with pyarrow, types kept."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "runwire.cli", "sql", "--format", "arrow"]
    query = "SELECT step, value FROM v_metrics WHERE run_id = 'run-0' AND metric = 'lr'"
    raw = subprocess.run(
        [*command, query, "--dir", str(logged.root)], capture_output=True, check=True
    ).stdout
    table = pa.ipc.open_stream(raw).read_all()
    assert table.num_rows == 40
    assert table.schema.field("value").type == pa.float64()


def test_sql_reports_errors_and_empty_results_in_one_sentence(logged):
    """A wrong query is one readable line and status 1; no rows is a sentence."""
    wrong = logged("sql", "SELECT nothing FROM v_runs", check=False)
    assert wrong.returncode == 1
    assert "nothing" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert "DB::Exception" not in wrong.stderr
    empty = logged("sql", "SELECT run_id FROM v_runs WHERE run_id = 'x'")
    assert empty.stdout.startswith("no rows")


def test_sql_refuses_statements_that_write(logged):
    """The command reads with the reader's rights."""
    assert logged("sql", "DROP TABLE runwire.metrics", check=False).returncode == 1


def test_runs_lists_newest_first_and_filters(logged):
    """By project and by status; an empty list is a sentence."""
    rows = json.loads(logged("runs", "--json").stdout)
    assert [row["run_id"] for row in rows] == ["run-1", "run-0"]
    assert {row["status"] for row in rows} == {"finished"}
    shown = logged("runs", "--project", "p", "--limit", "1").stdout
    assert "beta" in shown
    assert "alpha" not in shown
    assert "no runs that match" in logged("runs", "--status", "failed").stdout


def test_show_has_params_metrics_and_completeness(logged):
    """By id, by prefix or by name the same page."""
    page = logged("show", "run-0").stdout
    for word in ("finished", "alpha", "lr", "opt", "train/loss", "team=red", "complete: all 120"):
        assert word in page
    assert "█" in page
    assert logged("show", "alpha").stdout.splitlines()[0] == page.splitlines()[0]
    fields = json.loads(logged("show", "run-0", "--metric", "loss", "--json").stdout)
    assert [row["metric"] for row in fields["metrics"]] == ["train/loss"]
    assert fields["metrics"][0]["value"] == pytest.approx(0.05)
    assert fields["metrics"][0]["max"] == pytest.approx(2.0)


def test_show_refuses_to_guess(logged):
    """A prefix of several runs lists them; an unknown one names `runwire runs`."""
    several = logged("show", "run-", check=False)
    assert several.returncode == 1
    assert "run-0" in several.stderr
    assert "run-1" in several.stderr
    assert "`runwire runs`" in logged("show", "nobody", check=False).stderr


def test_show_plot_writes_a_png(logged, tmp_path):
    """--plot writes a PNG, in a folder that need not exist."""
    picture = tmp_path / "new" / "curves.png"
    logged("show", "run-0", "--plot", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    wrong = logged("show", "run-0", "--plot", str(tmp_path / "x.nothing"), check=False)
    assert wrong.returncode == 1
    assert "cannot write the picture" in wrong.stderr


def test_tail_ends_with_the_run(logged):
    """tail of a finished run prints its last calls and ends by itself."""
    done = logged("tail", "run-0", "--metric", "loss", "--lines", "3")
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["37", "38", "39"]
    assert "finished" in done.stderr
    calls = [json.loads(line) for line in logged("tail", "run-0", "--json").stdout.splitlines()]
    assert calls[-1]["step"] == 39
    assert set(calls[-1]["values"]) == {"train/loss", "nan", "lr"}


def test_a_second_migration_changes_nothing(logged):
    """--print changes nothing either, and shows the SQL."""
    assert json.loads(logged("migrate", "--json").stdout)["applied"] == []
    assert "CREATE TABLE" in logged("migrate", "--print").stdout


def test_replayed_dead_letters_are_stored_once(stack):
    """Letters that decode are stored and deleted; a repeat changes nothing; others stay."""
    folder = letters_dir(stack.root)
    batch = metric_batch(calls=5, names=("loss",), run_id="late", project="p")
    good = letter_of(record(batch, 0), "disk", at_ns=AT_NS)
    bad = replace(good, id="ff" * 16, value=b"\x00garbage")
    _put(folder, good, bad)
    rows = json.loads(stack("dead-letters", "ls", "--json").stdout)
    assert {row["id"] for row in rows} == {good.id, bad.id}
    assert good.id in stack("dead-letters", "show", good.id[:8]).stdout
    assert json.loads(stack("status", "--json").stdout)["dead_letters"] == 2
    for _ in range(2):
        done = stack("dead-letters", "replay", "--all", "--json", check=False)
        assert done.returncode == 1
        answer = json.loads(done.stdout)
        assert (answer["stored"], list(answer["failed"])) == ([good.id], [bad.id])
        sql = "SELECT count() AS n, sum(value) AS s FROM v_metrics WHERE run_id = 'late'"
        assert json.loads(stack("sql", "--json", sql).stdout) == [{"n": 5, "s": 10}]
        _put(folder, good)  # as if a crash came before it was forgotten
    FileDeadLetters(folder).remove({good.id, bad.id})
    assert "no dead letters" in stack("dead-letters", "ls").stdout
    assert stack("dead-letters", "replay", check=False).returncode == 2


def _put(folder, *kept):
    file = FileDeadLetters(folder)
    for letter in kept:
        file.put(letter)
    file.flush()


def test_delete_asks_and_then_hides_the_run(stack):
    """Without a yes nothing happens; with it the run is gone from every view."""
    stack.train(
        "import runwire\nwith runwire.init(project='p', run_id='gone') as run: run.log({'a': 1})"
    )
    deadline = time.monotonic() + 60
    while "gone" not in stack("runs", "--json").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    asked = stack("delete", "gone", check=False)
    assert asked.returncode == 2
    assert "--yes" in asked.stderr
    assert stack("delete", "gon", "--yes", check=False).returncode == 1
    assert "gone" in stack("delete", "gone", "--yes").stdout
    assert "gone" not in stack("runs", "--json").stdout
    again = stack("delete", "gone", "--wait", "--json")
    assert json.loads(again.stdout) == {"project": "p", "run_id": "gone", "rows_left": 0}
    assert "deleted before" in stack("delete", "gone").stdout
    assert json.loads(stack("purge", "--json").stdout)["runs"] == []


def test_archived_run_leaves_and_comes_back_as_it_was(stack):
    """Its rows go into the store and return; the second time is no error; a deletion ends both."""
    stack.train(
        "import runwire\n"
        "with runwire.init(project='p', run_id='kept') as run:\n"
        "    for step in range(20): run.log({'a': step})"
    )
    points = "SELECT count() AS n, sum(value) AS s FROM v_metrics WHERE run_id = 'kept'"
    deadline = time.monotonic() + 60
    while json.loads(stack("sql", "--json", points).stdout) != [{"n": 20, "s": 190}]:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    for _ in range(2):
        row = json.loads(stack("archive", "kept", "--delete-rows", "--json").stdout)
        assert (row["run_id"], row["rows"] > 20) == ("kept", True)
    assert "kept" not in stack("runs", "--json").stdout
    assert "kept" in stack("archive").stdout
    for _ in range(2):
        assert "kept" in stack("unarchive", "kept").stdout
        assert json.loads(stack("sql", "--json", points).stdout) == [{"n": 20, "s": 190}]
    assert "kept" in stack("retain", "--older-than", "0s", "--delete", "--dry-run").stdout
    assert stack("retain", "--older-than", "0s", check=False).returncode != 0
    stack("archive", "kept", "--delete-rows")
    assert "kept" in stack("delete", "kept", "--yes", "--wait").stdout
    assert stack("unarchive", "kept", check=False).returncode != 0
    assert "no archives" in stack("archive").stdout
