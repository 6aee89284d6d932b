"""Deletion, archive and return of runs: commands and engine killed at random moments."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse.client import connect
from runwire_consumers.clickhouse.engine import Engine
from runwire_consumers.clickhouse.migrate import apply
from runwire_consumers.clickhouse.tombstones import find_tombstones, hide_run
from runwire_consumers.housekeeping.purge import count_rows
from runwire_disk.paths import embedded_dir
from support.effort import IS_QUICK

pytestmark = pytest.mark.engine

RUNS = 20
POINTS = 1_000_000
GONE = [f"run-{number}" for number in range(0, RUNS, 2)]
KEPT = "SELECT count(), sum(sipHash64(run_id, step, value)) FROM metrics FINAL WHERE run_id IN {}"
ROUNDS = 3 if IS_QUICK else 8


class Node:
    """An engine of its own, and the command of its folder, both to be killed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.engine = Engine(embedded_dir(root), ports=(0, 0), die_with_parent=True)
        self.url = ""
        self.start()

    def start(self) -> None:
        self.engine.start()
        self.url = self.engine.wait_ready().url

    def kill(self) -> None:
        pid = self.engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while self.engine.alive():
            time.sleep(0.05)

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "runwire.cli", *arguments, "--dir", str(self.root)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        with contextlib.closing(connect(self.url, create=True)) as client:
            yield client


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    if importlib.util.find_spec("chdb") is None:
        pytest.skip("chdb-core is not installed (pip install 'runwire[embedded]')")
    made = Node(tmp_path)
    with made.client() as client:
        apply(client)
        fill(client)
    yield made
    made.engine.stop()


def fill(client: Client) -> None:
    """A million points of twenty runs, in several parts."""
    run = f"'p', concat('run-', toString(number % {RUNS}))"
    for part in range(4):
        client.command(
            "INSERT INTO metrics (project, run_id, metric, step, value) "
            f"SELECT {run}, 'loss', intDiv(number, {RUNS}) + {part * POINTS}, rand() / 1e9 "
            f"FROM numbers({POINTS // 4})"
        )
    client.command(
        "INSERT INTO run_events (project, run_id, attempt, event, status, at, append_at) SELECT "
        f"{run}, 1, 'finished', 'finished', now64(3), now64(3) FROM numbers({RUNS})"
    )


def test_purge_ends_without_a_row_when_command_and_engine_are_killed(node: Node, seed: int) -> None:
    """Each time it resumes; in the end no row of a deleted run is left, and all others are."""
    rng = random.Random(seed)
    others = tuple(f"run-{number}" for number in range(1, RUNS, 2))
    with node.client() as client:
        before = client.query(KEPT.format(others)).result_rows
        for run_id in GONE:
            hide_run(client, "p", run_id)
    for _ in range(ROUNDS):
        purge = node.command("purge", "--wait")
        time.sleep(rng.uniform(0.3, 2.0))
        if rng.random() < 0.5:
            node.kill()
            node.start()
        purge.kill()
        purge.communicate()
    last = node.command("purge", "--wait")
    assert (last.communicate()[1] or b"", last.returncode)[1] == 0
    with node.client() as client:
        assert count_rows(client, f"run_id IN {tuple(GONE)}") == {}
        assert client.query(KEPT.format(others)).result_rows == before
        assert {mark.run_id for name in GONE for mark in find_tombstones(client, name)} == set(GONE)


def test_archive_and_return_of_a_run_survive_kills_of_both_processes(node: Node, seed: int) -> None:
    """The run is either here as it was or hidden; in the end it is here, row for row."""
    rng = random.Random(seed)
    wanted = KEPT.format("('run-0', 'run-1')")
    with node.client() as client:
        before = client.query(wanted).result_rows
    for _ in range(ROUNDS):
        for arguments in (("archive", "run-0", "--delete-rows"), ("unarchive", "run-0")):
            process = node.command(*arguments)
            if rng.random() < 0.8:
                time.sleep(rng.uniform(0.5, 4.0))
                if rng.random() < 0.5:
                    node.kill()
                    node.start()
                process.kill()
            process.communicate()
            with node.client() as client:
                seen = client.command("SELECT count() FROM v_runs WHERE run_id = 'run-0'")
                if seen:
                    assert client.query(wanted).result_rows == before
    for arguments in (("archive", "run-0", "--delete-rows"), ("unarchive", "run-0")):
        process = node.command(*arguments)
        error = process.communicate()[1]
        assert process.returncode == 0, error
    with node.client() as client:
        assert client.query(wanted).result_rows == before
        assert find_tombstones(client, "run-0") == []
