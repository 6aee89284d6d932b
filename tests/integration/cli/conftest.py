"""One embedded stack for the tests that only read, and a way to start others."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

TIMEOUT_S = 180


@dataclass
class Cli:
    """The `runwire` command on one data folder."""

    root: Path

    def __call__(self, *arguments, check=True, **environment):
        """Run it to its end; its completed process."""
        done = subprocess.run(
            [sys.executable, "-m", "runwire.cli", *arguments, "--dir", str(self.root)],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            env={**clean_environment(), **environment},
        )
        if check:
            assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stderr}"
        return done

    def train(self, code):
        """Run a training script that logs into this folder; its stdout."""
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            env={**clean_environment(), "RUNWIRE_DIR": str(self.root)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def processes(self):
        """Live processes that name this folder on their command line."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            arguments = process.info["cmdline"] or []
            if process.info["status"] != psutil.STATUS_ZOMBIE and any(
                str(self.root) in argument for argument in arguments
            ):
                found.append(process)
        return found


def clean_environment():
    """The environment without an address of another server."""
    return {k: v for k, v in os.environ.items() if k != "RUNWIRE_CLICKHOUSE_URL"}


def end_all(cli):
    """Stop the stack and every other process of the folder."""
    cli("down", check=False)
    for process in cli.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(cli.processes(), timeout=10)


@pytest.fixture
def cli(tmp_path):
    """The command on an empty folder; everything it started is gone afterwards."""
    made = Cli(tmp_path / "data")
    try:
        yield made
    finally:
        end_all(made)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A running stack, shared by the tests of a module that leave it as it is."""
    made = Cli(tmp_path_factory.mktemp("stack") / "data")
    try:
        made("up")
        yield made
    finally:
        end_all(made)
