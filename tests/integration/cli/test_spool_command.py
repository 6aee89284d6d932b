"""`runwire spool` shows what a trainer wrote, and finds what is broken."""

from __future__ import annotations

import json

import pytest

TRAIN = """
import math, runwire
run = runwire.init(project="p", run_id="r1", config={"lr": 0.1})
for step in range(100):
    run.log({"loss": 1.0 / (step + 1), "odd": math.nan if step == 1 else math.inf})
run.finish()
"""


@pytest.fixture
def written(cli):
    """A folder whose trainer is gone and that nobody has read."""
    cli.train(TRAIN)
    return cli


def test_spool_ls_shows_writers_with_pending_points(written):
    """One line per writer: run, step, pending points."""
    rows = json.loads(written("spool", "ls", "--json").stdout)
    assert [(row["run_id"], row["last_step"], row["pending_points"]) for row in rows] == [
        ("r1", 99, 200)
    ]
    assert "r1" in written("spool", "ls").stdout


def test_cat_prints_every_point_as_valid_json(written):
    """Each call is one line with its names; NaN and infinities become words."""
    lines = written("spool", "cat", "--series", "metric", "r1").stdout.splitlines()
    calls = [json.loads(line) for line in lines]
    assert [call["step"] for call in calls] == list(range(100))
    assert calls[3]["values"] == {"loss": 0.25, "odd": "Infinity"}
    assert calls[1]["values"]["odd"] == "NaN"
    assert len(written("spool", "cat", "--limit", "3").stdout.splitlines()) == 3
    kinds = {json.loads(line)["kind"] for line in written("spool", "cat").stdout.splitlines()}
    assert {"run", "param", "metric"} <= kinds


def test_verify_is_quiet_about_sound_segments(written):
    """No damage: status 0 and a count."""
    assert "0 damaged" in written("spool", "verify").stdout


def test_verify_names_a_flipped_bit_and_fails(written):
    """One changed byte inside a record: status 1, the file is named, the rest still counts."""
    segment = next((written.root / "spool").glob("*/metric-*.seg"))
    content = bytearray(segment.read_bytes())
    content[2000] ^= 1
    segment.write_bytes(content)
    done = written("spool", "verify", check=False)
    assert done.returncode == 1
    assert str(segment) in done.stdout
    reports = json.loads(written("spool", "verify", "--json", check=False).stdout)
    damaged = [report for report in reports if report["damage"]]
    assert [report["file"] for report in damaged] == [str(segment)]
    assert damaged[0]["records"] > 90
    doctor = written("doctor", "--json", check=False)
    found = {finding["check"]: finding for finding in json.loads(doctor.stdout)}
    assert found["spool damage"]["level"] == "warn"


def test_spool_of_an_unknown_run_ends_with_1(written):
    """An unknown run is status 1, and the error names the folder."""
    done = written("spool", "cat", "nobody", check=False)
    assert done.returncode == 1
    assert "nobody" in done.stderr


def test_spool_ls_of_an_empty_folder_succeeds(cli):
    """Nothing logged yet is no error."""
    assert cli("spool", "ls").returncode == 0
