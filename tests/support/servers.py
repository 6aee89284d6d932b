"""Kafka, a schema registry and an S3 store for tests, each real, one set per session.

Taken in this order: an address from the environment, a container where Docker answers, a server of
`deploy/native` started for this session alone. Without any the test skips and says why; with
RUNWIRE_TEST_REQUIRE_SERVERS=1 it fails.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest

from runwire_schemas.kafka_settings import KafkaSettings

COMMAND = Path(__file__).parents[2] / "deploy" / "native" / "servers.py"
# As the session found it: a test's HOME is an empty folder, and what is fetched is cached at home.
ENVIRONMENT = dict(os.environ)
# Servers started beforehand, by `deploy/native/servers.py start --instance …`; left running.
INSTANCE_VARIABLE = "RUNWIRE_TEST_SERVERS_INSTANCE"


Found = TypeVar("Found")


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
        """Start what does not run and wait until it is ready; the address stays the same."""
        options = ["--json", "--instance", instance()]
        if INSTANCE_VARIABLE not in ENVIRONMENT:
            options += ["--owner", str(os.getpid())]
        before = self.record.get("address")
        self.record = json.loads(native("start", self.name, *options))[self.name]
        assert before in {None, self.record["address"]}, "another process took the server's port"

    def stop(self, process: int | None = None) -> None:
        """SIGTERM and wait for the end, of one process or of all."""
        native("stop", self._part(process), "--instance", instance())

    def kill(self, process: int | None = None) -> None:
        """SIGKILL, of one process or of all."""
        native("stop", self._part(process), "--kill", "--instance", instance())

    def restart(self) -> None:
        self.stop()
        self.start()

    def pid(self, process: int = 1) -> int:
        return int(self.record["processes"][str(process)]["pid"])

    def _part(self, process: int | None) -> str:
        return self.name if process is None else f"{self.name}/{process}"


@dataclass
class GivenServer:
    """A server named by the environment: nobody here may stop it."""

    address: str
    variable: str
    kind: str = "environment"

    def start(self) -> None:
        self._refuse()

    def stop(self, process: int | None = None) -> None:
        self._refuse()

    def kill(self, process: int | None = None) -> None:
        self._refuse()

    def restart(self) -> None:
        self._refuse()

    def _refuse(self) -> None:
        pytest.skip(f"this test stops servers, and the one of {self.variable} is not ours to stop")


class Cluster:
    """Brokers. `kill(2)` ends the second of three at once; `start()` brings back what is down."""

    def __init__(self, server: NativeServer | GivenServer) -> None:
        self.server = server
        self.bootstrap = server.address
        self.settings = KafkaSettings(bootstrap_servers=self.bootstrap)
        self.start, self.stop = server.start, server.stop
        self.kill, self.restart = server.kill, server.restart

    def drop(self, prefix: str) -> None:
        """Delete the topics whose name starts with the prefix, as far as the brokers answer."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({**self.settings.client_config(), "log_level": 0})
        try:
            topics = [t for t in admin.list_topics(timeout=5).topics if t.startswith(prefix)]
            if topics:
                for answer in admin.delete_topics(topics, operation_timeout=5).values():
                    answer.result(timeout=10)
        except KafkaException:
            return  # a test may have left them stopped; the names are used only once


@pytest.fixture(scope="session")
def kafka() -> Cluster:
    """One broker without encryption: `.bootstrap`."""
    return take(_kafka)


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix for topics and groups that no other test has; its topics go after the test."""
    prefix = f"t{uuid.uuid4().hex[:12]}"
    yield prefix
    for used in request.node.funcargs.values():
        if isinstance(used, Cluster):
            used.drop(prefix + ".")


def take(find: Callable[[], Found | str]) -> Found:
    """What was found; else skip with the reason, or fail where servers are required."""
    found = find()
    if not isinstance(found, str):
        return found
    if os.environ.get("RUNWIRE_TEST_REQUIRE_SERVERS") == "1":
        pytest.fail(f"RUNWIRE_TEST_REQUIRE_SERVERS=1 and {found}")
    pytest.skip(found)


@cache
def _kafka() -> Cluster | str:
    return _cluster("kafka", "RUNWIRE_TEST_KAFKA")


def _cluster(name: str, variable: str) -> Cluster | str:
    address = ENVIRONMENT.get(variable)
    if address:
        return Cluster(GivenServer(address, variable))
    try:
        return Cluster(NativeServer(name))
    except Unavailable as reason:
        return f"no {name}: {variable} is unset, no Docker answers, and {reason}"


def instance() -> str:
    return ENVIRONMENT.get(INSTANCE_VARIABLE) or f"tests-{os.getpid()}"


def native(*words: str) -> str:
    """Run a command of deploy/native; what it printed."""
    command = [sys.executable, str(COMMAND), *words]
    mark = {name: os.environ[name] for name in ("RUNWIRE_TEST_SESSION",) if name in os.environ}
    if INSTANCE_VARIABLE not in ENVIRONMENT:
        _remove_at_exit()
    ended = subprocess.run(
        command, env={**ENVIRONMENT, **mark}, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise Unavailable(ended.stderr.strip().removeprefix("error: "))
    return ended.stdout


@cache
def _remove_at_exit() -> None:
    command = [sys.executable, str(COMMAND), "remove", "--instance", instance()]
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not in a forked child
            subprocess.run(command, env=ENVIRONMENT, check=False)

    atexit.register(remove)
