"""`runwire artifact` and `runwire checkpoints`, run as users do, on a folder store alone."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runwire_store.folder.store import FolderStore
from runwire_store.layout import BLOBS, blob_key
from runwire_store.open import open_store
from support.stored import put_artifact, put_blobs, put_checkpoint

FILES = {"model.bin": b"weights" * 100, "config/a.json": b"{}"}
SECOND = 10**9


@pytest.fixture
def store(cli) -> FolderStore:
    """The store of the command's data folder, empty."""
    made = open_store(None, cli.root)
    assert isinstance(made, FolderStore)
    return made


def put_some(store: FolderStore) -> None:
    put_artifact(store, 1, FILES, name="model", type="model", aliases=("best",))
    put_artifact(store, 2, {"model.bin": b"newer"}, name="model", type="model")
    put_artifact(store, 3, {"d.csv": b"1,2"}, name="data", run_id="other", project="q")


def damage(store: FolderStore, sha256: str, content: bytes) -> None:
    store.put(blob_key(sha256), content)


def test_artifact_ls_works_without_clickhouse(cli, store) -> None:
    """Versions of all projects, filtered; stderr reports that lineage is unknown."""
    put_some(store)
    done = cli("artifact", "ls")
    assert "without lineage" in done.stderr
    assert "runwire up" in done.stderr
    table = done.stdout.splitlines()
    assert table[0].split()[:4] == ["project", "name", "version", "aliases"]
    assert len(table) == 5
    assert any("model" in line and "v1" in line and "latest" in line for line in table)
    rows = json.loads(cli("artifact", "ls", "--json", "--type", "model").stdout)
    assert [(row["name"], row["version"], row["aliases"]) for row in rows] == [
        ("model", 1, ["latest"]),
        ("model", 0, ["best"]),
    ]
    assert rows[1]["bytes"] == sum(map(len, FILES.values()))
    assert rows[1]["used_by"] is None
    for options in (["--run", "other"], ["--project", "q"], ["data"]):
        (row,) = json.loads(cli("artifact", "ls", "--json", *options).stdout)
        assert (row["project"], row["name"]) == ("q", "data")
    assert json.loads(cli("artifact", "ls", "--json", RUNWIRE_PROJECT="p").stdout) == rows
    newest = cli("artifact", "ls", "--limit", "1").stdout.splitlines()
    assert "data" in newest[2]
    assert newest[3].startswith("... and 2 older ones")
    nothing = cli("artifact", "ls", "--run", "nobody")
    assert "no artifacts that match" in nothing.stdout
    assert json.loads(cli("artifact", "ls", "--json", "--run", "nobody").stdout) == []


def test_get_writes_verified_files(cli, store, tmp_path) -> None:
    """By alias, number or project; stdout has one path per line."""
    put_some(store)
    out = tmp_path / "out"
    done = cli("artifact", "get", "model:best", "-o", str(out))
    assert done.stdout.splitlines() == [str(out / name) for name in FILES]
    assert {name: (out / name).read_bytes() for name in FILES} == FILES
    assert cli("artifact", "get", "model:best", "-o", str(out)).returncode == 0, "again is fine"
    got = json.loads(cli("artifact", "get", "q/data:v0", "--json", "-o", str(out)).stdout)
    assert got["files"] == [str(out / "d.csv")]
    for wrong in ("model:v7", "nothing", "elsewhere/model"):
        failed = cli("artifact", "get", wrong, "-o", str(out), check=False)
        assert failed.returncode == 1
        assert "artifact ls" in failed.stderr
        assert "Traceback" not in failed.stderr


def test_get_without_o_makes_a_folder_named_after_the_version(cli, store, tmp_path) -> None:
    """Also when the name contains characters that no folder may have."""
    put_artifact(store, 1, {"a": b"x"}, name="../../evil name", project="default")
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "runwire.cli", "artifact", "get", "../../evil name"]
    subprocess.run([*command, "--dir", str(cli.root)], cwd=work, check=True, capture_output=True)
    assert [str(p.relative_to(work)) for p in work.rglob("*") if p.is_file()] == [
        "_.._evil_name-v0/a"
    ]


def test_get_asks_for_a_project_when_several_have_the_name(cli, store, tmp_path) -> None:
    """It never guesses: the error names the projects."""
    for number, project in enumerate(["p", "q"], start=1):
        put_artifact(store, number, project=project)
    failed = cli("artifact", "get", "data", "-o", str(tmp_path / "x"), check=False)
    assert failed.returncode == 1
    assert "p, q" in failed.stderr
    assert cli("artifact", "get", "data", "--project", "q", "-o", str(tmp_path / "x")).stdout


def test_verify_reports_each_damaged_file_once(cli, store, tmp_path) -> None:
    """Status 1 and one line per damaged file; get refuses the damaged one and names the digest."""
    put_some(store)
    assert "all right" in cli("artifact", "verify", "model:v0").stdout
    made = put_artifact(store, 9, {"x": b"good", "y": b"gone"}, name="broken", project="default")
    damage(store, made.files[0].sha256, b"evil")
    store.delete([blob_key(made.files[1].sha256)])
    done = cli("artifact", "verify", "broken", check=False)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["x", "y", "broken"]
    answer = json.loads(cli("artifact", "verify", "broken", "--json", check=False).stdout)
    assert (answer["ok"], [p["path"] for p in answer["problems"]]) == (False, ["x", "y"])
    failed = cli("artifact", "get", "broken", "-o", str(tmp_path / "out"), check=False)
    assert failed.returncode == 1
    assert made.files[0].sha256 in failed.stderr
    assert not (tmp_path / "out" / "x").exists()


def test_artifact_show_prints_files_and_metadata(cli, store) -> None:
    """Everything in the manifest, without ClickHouse."""
    put_artifact(store, 1, FILES, name="model", project="default", metadata={"lr": 0.1})
    page = cli("artifact", "show", "model").stdout
    for word in ("model:v0", "latest", "by run r", "lr = 0.1", "config/a.json", "sha256"):
        assert word in page
    fields = json.loads(cli("artifact", "show", "model", "--json").stdout)
    assert [entry["path"] for entry in fields["content"]] == list(FILES)
    assert fields["made_from"] is None


def test_sweep_deletes_unreferenced_blobs(cli, store) -> None:
    """Blobs that a manifest references stay."""
    put_some(store)
    put_blobs(store, {"orphan": b"orphan"})
    assert "deleted 0 files" in cli("artifact", "sweep").stdout, "it is younger than a day"
    time.sleep(0.05)
    dry = json.loads(cli("artifact", "sweep", "--grace-s", "0", "--dry-run", "--json").stdout)
    assert (len(dry["blobs"]), dry["blob_bytes"], dry["is_dry_run"]) == (1, 6, True)
    assert "deleted 1 files" in cli("artifact", "sweep", "--grace-s", "0").stdout
    assert len(list(store.list(BLOBS))) == 4
    assert "all right" in cli("artifact", "verify", "p/model:v0").stdout


def test_a_manifest_of_a_newer_version_stops_a_sweep(cli, store) -> None:
    """It may reference any blob, so nothing is deleted and the status is 1; lists report it."""
    put_some(store)
    newer = put_artifact(store, 8, name="newer")
    data = json.loads(store.get(newer.key)) | {"format": 2}
    store.put(newer.key, json.dumps(data).encode())
    put_blobs(store, {"orphan": b"orphan"})
    time.sleep(0.05)
    done = cli("artifact", "ls", "--json")
    assert len(json.loads(done.stdout)) == 3
    assert "upgrade" in done.stderr
    swept = cli("artifact", "sweep", "--grace-s", "0", check=False)
    assert swept.returncode == 1
    assert "upgrade" in swept.stderr
    assert "deleted 0 files" in swept.stdout
    failed = cli("artifact", "get", "p/newer", check=False)
    assert failed.returncode == 1
    assert "upgrade" in failed.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["artifact"],
        ["artifact", "get"],
        ["artifact", "show"],
        ["artifact", "sweep", "name"],
        ["artifact", "dance"],
        ["artifact", "sweep", "--grace-s", "-1"],
        ["checkpoints"],
        ["checkpoints", "r", "--download", "newest"],
        ["checkpoints", "r", "--step", "-3"],
    ],
)
def test_misuse_of_artifact_ends_with_status_2(cli, words) -> None:
    """As every command line that makes no sense."""
    done = cli(*words, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"RUNWIRE_S3_ENDPOINT": "http://127.0.0.1:1"}, "RUNWIRE_S3_ACCESS_KEY"),
        (
            {
                "RUNWIRE_S3_ENDPOINT": "http://127.0.0.1:1",
                "RUNWIRE_S3_ACCESS_KEY": "a",
                "RUNWIRE_S3_SECRET_KEY": "b" * 8,
            },
            "127.0.0.1:1",
        ),
    ],
)
def test_an_unreachable_store_is_one_sentence(cli, settings, words) -> None:
    """Status 1 and the cause, without a traceback."""
    done = cli("artifact", "ls", check=False, **settings)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def put_checkpoints(store: FolderStore) -> None:
    rules = {"keep_best": 1, "metric": "loss"}
    for number, loss in enumerate([3.0, 1.0, 2.0, float("nan")], start=1):
        metrics = {"loss": loss, "acc": 0.5}
        put_checkpoint(store, number, number * 10, metrics=metrics, retention=rules)
    put_checkpoint(store, 5, 50, kind="sharded", world_size=2, rank=1)


def test_checkpoints_are_listed_with_marks(cli, store) -> None:
    """Oldest first, best and latest marked, NaN and missing parts shown."""
    put_checkpoints(store)
    done = cli("checkpoints", "r")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["10", "20", "30", "40", "50"]
    assert "best" in lines[3]
    assert "loss=1" in lines[3]
    assert "latest,not finite" in lines[5]
    assert "pending: 1 of 2 parts" in lines[6]
    rows = json.loads(cli("checkpoints", "r", "--json", "--project", "p").stdout)
    assert [row["step"] for row in rows if row["is_best"]] == [20]
    assert [row["step"] for row in rows if row["state"] == "complete"] == [10, 20, 30, 40]
    assert rows[3]["metrics"]["loss"] == "NaN"
    (one,) = json.loads(cli("checkpoints", "r", "--json", "--step", "best").stdout)
    assert one["step"] == 20
    unknown = cli("checkpoints", "nobody", check=False)
    assert unknown.returncode == 1
    assert "nobody" in unknown.stderr


def test_checkpoints_are_verified_and_downloaded(cli, store, tmp_path) -> None:
    """`verify` reads every part; `get` writes them below the folder that was asked for."""
    put_checkpoints(store)
    done = cli("checkpoints", "r", "--verify")
    assert done.stdout.splitlines()[0] == "step 10: all right"
    assert "rank 0 are missing" in done.stdout.splitlines()[4]
    out = tmp_path / "best"
    done = cli("checkpoints", "r", "--download", "best", "-o", str(out))
    assert done.stdout.splitlines() == [str(out / "a.bin")]
    assert (out / "a.bin").read_bytes() == b"2"
    put_checkpoint(store, 6, 50, kind="sharded", world_size=2, rank=0)
    got = cli("checkpoints", "r", "--download", "step-50", "--json", "-o", str(out))
    paths = json.loads(got.stdout)["files"]
    assert [Path(path).relative_to(out).as_posix() for path in paths] == [
        "rank-0/a.bin",
        "rank-1/a.bin",
    ]
    missing = cli("checkpoints", "r", "--download", "70", check=False)
    assert missing.returncode == 1
    assert "50" in missing.stderr
    damage(store, "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce", b"x")
    wrong = cli("checkpoints", "r", "--verify", "--step", "30", check=False)
    assert wrong.returncode == 1
    assert "rank 0, a.bin" in wrong.stdout


def test_a_terminal_gets_a_bar_and_a_pipe_none(cli, store, tmp_path) -> None:
    """A bar on stderr of a terminal; stdout has nothing but the paths for scripts."""
    put_artifact(store, 1, {"a": b"x" * 1000}, project="default")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "runwire.cli", "artifact", "get", "data"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "o"), "--dir", str(cli.root)],
        stdout=subprocess.PIPE,
        stderr=slave,
        check=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(slave)
    shown = os.read(master, 1 << 16).decode(errors="replace")
    os.close(master)
    assert "data:v0" in shown
    assert "\x1b[" in shown
    assert done.stdout.decode().splitlines() == [str(tmp_path / "o" / "a")]
    assert "\x1b[" not in cli("artifact", "get", "data", "-o", str(tmp_path / "p")).stderr
