"""Kafka, a schema registry and S3 stores for tests, each real, one set per session.

Taken in this order: an address from the environment, a container where Docker answers, a server of
`deploy/native` started for this session alone. Without any the test skips and says why; with
RUNWIRE_TEST_REQUIRE_SERVERS=1 it fails.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import pytest

from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.connections.s3 import S3Settings
from support.engine import docker_answers
from support.native import ENVIRONMENT, INSTANCE_VARIABLE, NativeServer, Unavailable

if TYPE_CHECKING:
    from minio import Minio


class Server(Protocol):
    """Processes behind one address, counted from 1; None means all of them."""

    kind: str
    address: str
    facts: dict[str, Any]

    def start(self) -> None:
        """Start the processes that do not run and wait until they are ready; the address stays."""

    def stop(self, process: int | None = None) -> None:
        """SIGTERM and wait for the end."""

    def kill(self, process: int | None = None) -> None:
        """SIGKILL and wait for the end."""

    def pause(self, process: int) -> None:
        """SIGSTOP: the process exists and does not answer."""

    def go_on(self, process: int) -> None:
        """SIGCONT."""


@dataclass
class GivenServer:
    """A server named by the environment, which tests may not stop."""

    address: str
    variable: str
    facts: dict[str, Any] = field(default_factory=dict)
    kind: str = "environment"

    def start(self) -> None:
        self._refuse()

    def stop(self, process: int | None = None) -> None:
        self._refuse()

    def kill(self, process: int | None = None) -> None:
        self._refuse()

    def pause(self, process: int) -> None:
        self._refuse()

    def go_on(self, process: int) -> None:
        self._refuse()

    def _refuse(self) -> None:
        pytest.skip(f"this test stops servers, and the one of {self.variable} is not ours to stop")


class Cluster:
    """Brokers. `kill(2)` ends the second of three at once; `start()` restarts stopped ones."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.bootstrap = server.address
        self.settings = KafkaSettings(bootstrap_servers=self.bootstrap)
        self.start, self.stop, self.kill = server.start, server.stop, server.kill
        self.pause, self.go_on = server.pause, server.go_on

    def restart(self) -> None:
        """Stop all brokers in order and start them again, with everything they stored."""
        self.stop()
        self.start()

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


class SecureCluster(Cluster):
    """A broker with TLS, passwords and ACLs: `admin` may do everything, the others nothing yet."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.admin, self.agent, self.worker = map(self._identity, ("admin", "agent", "worker"))
        self.settings = self.admin

    def _identity(self, user: str) -> KafkaSettings:
        return KafkaSettings(
            bootstrap_servers=self.bootstrap,
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            sasl_username=user,
            sasl_password_file=self.server.facts["users"][user]["password_file"],
            ssl_ca_location=self.server.facts["ca"],
        )

    def mutual(self, user: str) -> KafkaSettings:
        """The same user by certificate, at the listener that asks for one."""
        assert isinstance(self.server, NativeServer)
        return KafkaSettings(
            bootstrap_servers=f"127.0.0.1:{self.server.record['ports']['mutual-1']}",
            ssl_ca_location=self.server.facts["ca"],
            ssl_certificate_location=self.server.facts["users"][user]["certificate"],
        )


@dataclass(frozen=True)
class Registry:
    """A schema registry with Confluent's paths."""

    url: str
    server: Server


@dataclass(frozen=True)
class ObjectStore:
    """An S3 endpoint: `address` is host:port, as the minio client takes it."""

    address: str
    access_key: str
    secret_key: str = field(repr=False)
    server: Server

    def settings(self, bucket: str) -> S3Settings:
        """Settings for a bucket that need not exist."""
        return S3Settings(
            endpoint=f"http://{self.address}",
            bucket=bucket,
            access_key=self.access_key,
            secret_key=self.secret_key,
        )

    def client(self) -> Minio:
        """The client itself, as the user who may do everything."""
        from minio import Minio

        return Minio(
            self.address, access_key=self.access_key, secret_key=self.secret_key, secure=False
        )

    def new_bucket(self) -> Iterator[S3Settings]:
        """A bucket that is deleted after the test if the server answers then."""
        from minio.deleteobjects import DeleteObject
        from minio.error import MinioException
        from urllib3.exceptions import HTTPError

        settings = self.settings(f"t{uuid.uuid4().hex[:16]}")
        client = self.client()
        client.make_bucket(settings.bucket)
        yield settings
        with suppress(HTTPError, MinioException):
            found = client.list_objects(settings.bucket, recursive=True)
            names = [DeleteObject(entry.object_name) for entry in found]
            assert not list(client.remove_objects(settings.bucket, names))
            client.remove_bucket(settings.bucket)


@pytest.fixture(scope="session")
def kafka() -> Cluster:
    """One broker without encryption: `.bootstrap`, `.settings`."""
    return Cluster(take("kafka", "RUNWIRE_TEST_KAFKA"))


@pytest.fixture(scope="session")
def kafka3() -> Cluster:
    """Three brokers without encryption; topics need a replication factor of their own."""
    return Cluster(take("kafka3", "RUNWIRE_TEST_KAFKA3"))


@pytest.fixture(scope="session")
def kafka_secure() -> SecureCluster:
    """One broker with SASL_SSL and ACLs: `.admin`, `.agent`, `.worker` are KafkaSettings."""
    return SecureCluster(take("kafka-secure", ""))


@pytest.fixture(scope="session")
def registry() -> Registry:
    """A schema registry that keeps schemas in memory; subjects need names of their own."""
    server = take("registry", "RUNWIRE_TEST_REGISTRY")
    return Registry(server.address, server)


@pytest.fixture(scope="session")
def s3() -> ObjectStore:
    """An object store; buckets need names of their own.

    RUNWIRE_TEST_S3 is http://access-key:secret-key@host:port.
    """
    return _object_store("versitygw", "RUNWIRE_TEST_S3")


@pytest.fixture(scope="session")
def minio() -> ObjectStore:
    """A second object store, MinIO; RUNWIRE_TEST_MINIO as RUNWIRE_TEST_S3."""
    return _object_store("minio", "RUNWIRE_TEST_MINIO")


@pytest.fixture
def bucket(s3: ObjectStore) -> Iterator[S3Settings]:
    """An empty bucket of `s3` for one test."""
    yield from s3.new_bucket()


@pytest.fixture
def minio_bucket(minio: ObjectStore) -> Iterator[S3Settings]:
    """An empty bucket of `minio` for one test."""
    yield from minio.new_bucket()


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix for topics and groups that no other test has; its topics are deleted after it."""
    prefix = f"t{uuid.uuid4().hex[:12]}"
    yield prefix
    for used in request.node.funcargs.values():
        if isinstance(used, Cluster):
            used.drop(prefix + ".")


def _object_store(name: str, variable: str) -> ObjectStore:
    server = take(name, variable)
    parts = urlsplit(server.address)
    access = parts.username or server.facts["access_key"]
    secret = parts.password or server.facts["secret_key"]
    return ObjectStore(f"{parts.hostname}:{parts.port}", access, secret, server)


def take(name: str, variable: str) -> Server:
    """The one server of that name; else skip with the reason, or fail where it is required."""
    found = _find(name, variable)
    if not isinstance(found, str):
        return found
    if os.environ.get("RUNWIRE_TEST_REQUIRE_SERVERS") == "1":
        pytest.fail(f"RUNWIRE_TEST_REQUIRE_SERVERS=1 and {found}")
    pytest.skip(found)


@cache
def _find(name: str, variable: str) -> Server | str:
    address = ENVIRONMENT.get(variable)
    if address:
        return GivenServer(address, variable)
    reasons = [f"{variable} is unset"] if variable else []
    ways: list[Callable[[str], Server]] = [NativeServer]
    if INSTANCE_VARIABLE not in ENVIRONMENT and _docker():
        from support.containers import ContainerServer

        ways.insert(0, ContainerServer)
    else:
        reasons.append("no Docker answers or is asked")
    for way in ways:
        try:
            return way(name)
        except Unavailable as reason:
            reasons.append(str(reason))
    return f"there is no {name}: " + "; ".join(reasons)


_docker = cache(docker_answers)
