"""The commands of a trainer node, in a virtual environment with the base dependencies alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runwire_disk.spool.format import oversized_name
from support.bare import bare_environ, make_bare_environment

# What the extras bring; none of it may be there, or the tests below would show nothing.
EXTRAS = ("clickhouse_connect", "numpy", "prometheus_client", "minio", "chdb", "pyarrow",
          "matplotlib", "rich", "psutil", "pynvml")  # fmt: skip
TRAIN = """
import runwire
run = runwire.init(project="p", run_id="bare-run", config={"lr": 0.1})
for step in range(20):
    run.log({"loss": 1.0 / (step + 1)})
with open("notes.txt", "w") as file:
    file.write("notes")
run.log_artifact("notes.txt", name="notes")
run.finish()
"""


class Node:
    """A trainer node: an interpreter with the base dependencies, and a data root."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder, self.root = python, folder, folder / "data"

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        fixed = {"RUNWIRE_DIR": str(self.root), "RUNWIRE_AGENT": "none", "RUNWIRE_CAPTURE_GIT": "0"}
        return subprocess.run(
            [str(self.python), *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            timeout=120,
            env=bare_environ() | fixed | environ,
        )

    def __call__(self, *words: str, **environ: str) -> str:
        """Run a command of `runwire` that has to succeed; its stdout."""
        done = self.run("-m", "runwire.cli", *words, **environ)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bare_environment(tmp_path_factory.mktemp("bare") / "venv")


@pytest.fixture
def node(python: Path, tmp_path: Path) -> Node:
    """A node on which one run was logged, with nothing that ships or stores it."""
    made = Node(python, tmp_path)
    done = made.run("-c", TRAIN)
    assert done.returncode == 0, done.stderr
    return made


def test_bare_environment_has_none_of_the_extras(python: Path, tmp_path: Path) -> None:
    """Else the tests of this module would pass for the wrong reason."""
    code = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    assert Node(python, tmp_path).run("-c", code, *EXTRAS).stdout == "[]\n"


def test_status_shows_the_node_and_names_what_is_not_installed(node: Node) -> None:
    """Runs and artifacts that wait are shown; the stack is one line with the pip command."""
    text = node("status")
    assert "run bare-run (p): 20 points pending" in text
    assert "1 waiting" in text
    (line,) = [line for line in text.splitlines() if "not installed here" in line]
    assert line == "stack         not installed here: pip install 'runwire[embedded]'"
    facts = node.json("status")
    assert facts["runs"][0]["pending_points"] == 20
    assert (facts["uploads"]["waiting"], facts["dead_letters"]) == (1, 0)
    assert facts["agent"] == {"alive": False, "pid": None}
    assert set(facts["not_installed"]) == {"stack"}


def test_doctor_checks_the_node_and_fails_for_nothing_missing(node: Node) -> None:
    """A trainer node is sound without the stack's modules."""
    findings = {finding["check"]: finding for finding in node.json("doctor")}
    assert {"python", "disk", "file system", "spool", "outbox", "object store"} <= set(findings)
    assert findings["spool"]["found"] == "1 runs, 20 points pending"
    assert findings["stack"]["found"] == "not installed here: pip install 'runwire[embedded]'"
    assert "spool: 1 runs, 20 points pending" in node("doctor")


def test_doctor_fails_for_a_store_whose_client_is_missing(node: Node) -> None:
    """Where the environment names an S3 endpoint, uploads need the extra."""
    keys = {"RUNWIRE_S3_ENDPOINT": "http://127.0.0.1:1", "RUNWIRE_S3_ACCESS_KEY": "a",
            "RUNWIRE_S3_SECRET_KEY": "b"}  # fmt: skip
    done = node.run("-m", "runwire.cli", "doctor", **keys)
    assert done.returncode == 1
    assert "pip install 'runwire[s3]'" in done.stdout


def test_dead_letters_of_this_node_are_listed(node: Node) -> None:
    """Records kept in the spool are named; a node without any says where it looked."""
    assert f"no dead letters in {node.root}" in node("dead-letters", "ls")
    assert node.json("dead-letters", "ls") == []
    folder = next((node.root / "spool").iterdir())
    kept = folder / oversized_name("lifecycle", 1)
    kept.write_bytes(b"x" * 1234)
    assert f"{kept}: 1,234 bytes" in node("dead-letters", "ls")


def test_dead_letters_name_the_topic_of_shipped_records(python: Path, tmp_path: Path) -> None:
    """A record that a worker could not store is behind the brokers: one line says where."""
    node = Node(python, tmp_path)
    done = node.run("-c", TRAIN, RUNWIRE_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    listed = node("dead-letters", "ls")
    assert "topic runwire.deadletter.v1 at 127.0.0.1:1" in listed
    assert "kafka         127.0.0.1:1" in node("status")


def test_spool_and_sync_work_with_the_base_dependencies(node: Node) -> None:
    """The run is listed, and its artifact goes into the store of the data root."""
    (row,) = node.json("spool", "ls")
    assert (row["run_id"], row["pending_points"]) == ("bare-run", 20)
    assert node.json("sync")["ok"] is True
    assert node.json("status")["uploads"]["waiting"] == 0


def test_a_bare_node_starts_an_agent_that_watches(python: Path, tmp_path: Path) -> None:
    """`init` starts it from this environment, and it records a trainer that was killed."""
    node = Node(python, tmp_path)
    code = "import os, runwire; runwire.init(project='p', run_id='r').log({'a': 1}); os._exit(9)"
    assert node.run("-c", code).returncode == 9
    done = node.run("-m", "runwire_agent", "--exit-when-idle-s", "0.1")
    assert done.returncode == 0, done.stderr
    assert "ended without finishing the run" in done.stderr
