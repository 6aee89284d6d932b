"""Servers of `deploy/native` for tests: a set of their own for each session, removed at its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

from support.session_end import at_session_end

COMMAND = Path(__file__).parents[2] / "deploy" / "native" / "servers.py"
# From before any test: a test's HOME is an empty folder, and downloads are cached at home.
ENVIRONMENT = dict(os.environ)
# Servers started beforehand by `servers.py start --instance NAME`; they stay up after the session.
INSTANCE_VARIABLE = "RUNWIRE_TEST_SERVERS_INSTANCE"
WORKER_VARIABLE = "PYTEST_XDIST_WORKER"


class Unavailable(Exception):  # noqa: N818 - not an error: the sentence of a skip
    """No such server here; the message says why."""


class NativeServer:
    """A server of `deploy/native` that this session may stop, start and kill."""

    kind = "native"

    def __init__(self, name: str) -> None:
        self.name = name
        self.record: dict[str, Any] = {}
        self.start()

    @property
    def address(self) -> str:
        return str(self.record["address"])

    @property
    def facts(self) -> dict[str, Any]:
        found = self.record["facts"]
        assert isinstance(found, dict)
        return found

    def start(self) -> None:
        before = self.record.get("address")
        owner = () if INSTANCE_VARIABLE in ENVIRONMENT else ("--owner", str(os.getpid()))
        self.record = json.loads(_run("start", self.name, "--json", *owner))[self.name]
        assert before in {None, self.record["address"]}, "another process took the server's port"

    def stop(self, process: int | None = None) -> None:
        _run("stop", self._part(process))

    def kill(self, process: int | None = None) -> None:
        _run("stop", self._part(process), "--kill")

    def pause(self, process: int) -> None:
        os.kill(self.pid(process), signal.SIGSTOP)

    def go_on(self, process: int) -> None:
        os.kill(self.pid(process), signal.SIGCONT)

    def pid(self, process: int = 1) -> int:
        return int(self.record["processes"][str(process)]["pid"])

    def _part(self, process: int | None) -> str:
        return self.name if process is None else f"{self.name}/{process}"


def instance() -> str:
    """The name of the set of servers that this session uses."""
    return ENVIRONMENT.get(INSTANCE_VARIABLE) or f"tests-{os.getpid()}"


def _run(*words: str) -> str:
    """Run a command on this session's servers and return its output. Raises: Unavailable."""
    mark = {}
    if INSTANCE_VARIABLE in ENVIRONMENT and WORKER_VARIABLE in os.environ:
        raise Unavailable(f"workers of xdist would kill one another's servers: {INSTANCE_VARIABLE}")
    if INSTANCE_VARIABLE not in ENVIRONMENT:
        _remove_at_session_end()
        # With the mark of the session, so that servers that outlive it fail it.
        mark = {name: os.environ[name] for name in ("RUNWIRE_TEST_SESSION",) if name in os.environ}
    ended = subprocess.run(
        [sys.executable, str(COMMAND), *words, "--instance", instance()],
        env={**ENVIRONMENT, **mark},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise Unavailable(ended.stderr.rpartition("error: ")[2].strip())
    return ended.stdout


@cache
def _remove_at_session_end() -> None:
    command = [sys.executable, str(COMMAND), "remove", "--instance", instance()]
    at_session_end(partial(subprocess.run, command, env=ENVIRONMENT, check=False))
