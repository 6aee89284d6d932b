"""Workers and agent at a broker with passwords, certificates and ACLs that change meanwhile."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from runwire_agent.ship.broker import AUTHENTICATION, TLS, Failure, Message
from runwire_agent.ship.kafka import KafkaBroker
from runwire_consumers.core.clock import Deadline, SystemClock
from runwire_consumers.core.errors import Retryable
from runwire_consumers.kafka.acls import Grant, apply, grants
from runwire_consumers.kafka.admin import KafkaAdmin
from runwire_consumers.kafka.group_settings import GroupSettings
from runwire_consumers.kafka.producer import DurableProducer, OutgoingRecord
from runwire_consumers.kafka.source import TOPICS_CHECK_S, KafkaSource
from runwire_consumers.settings import WorkerSettings
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import topic_name
from support.builders import record, run_event
from support.faults import wait_for
from support.servers import SecureCluster
from support.topics import make_topics, send

EVENTS = [record(run_event(seq=seq), seq) for seq in range(4)]
ANSWER_S = 30


class HastyClock(SystemClock):
    """A clock at which every check of the source is due at every poll."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def monotonic_s(self) -> float:
        """Return seconds that run ahead by a check's pace at every look."""
        self._ahead_s += TOPICS_CHECK_S
        return super().monotonic_s() + self._ahead_s


Keep = Callable[[KafkaSource], KafkaSource]


@pytest.fixture
def sources() -> Iterator[Keep]:
    """Closes the sources of a test."""
    with ExitStack() as stack:

        def keep(source: KafkaSource) -> KafkaSource:
            stack.callback(source.close, Deadline(5.0))
            return source

        yield keep


def set_password(cluster: SecureCluster, user: str, password: str) -> None:
    """Give a user this password, as an administrator does."""
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    change = UserScramCredentialUpsertion(user, info, password.encode())
    admin = AdminClient(cluster.admin.client_config())
    for answer in admin.alter_user_scram_credentials([change]).values():
        answer.result(timeout=ANSWER_S)


@pytest.fixture
def rotating(
    kafka_secure: SecureCluster, topic_prefix: str, tmp_path: Path
) -> tuple[KafkaSettings, Path]:
    """A user of its own with the rights of agent and worker, and its password file."""
    user, secret = f"user{uuid.uuid4().hex[:8]}", tmp_path / "password"
    secret.write_text("first")
    set_password(kafka_secure, user, "first")
    make_topics(kafka_secure.admin, topic_prefix, ["run"])
    wanted = grants(prefix=topic_prefix, group=f"{topic_prefix}-clickhouse",
                    worker_user=user, agent_user=user)  # fmt: skip
    apply(KafkaAdmin(kafka_secure.admin), wanted)
    settings = replace(
        kafka_secure.agent,
        topic_prefix=topic_prefix,
        sasl_username=user,
        sasl_password_file=str(secret),
    )
    return settings, secret


def source_of(settings: KafkaSettings, group: str = "") -> KafkaSource:
    """A source of runs in the group that a worker without further settings has."""
    name = WorkerSettings(group=group).groups(settings.topic_prefix).clickhouse
    chosen = GroupSettings(name=name, kinds=("run",), session_timeout_s=6.0)
    return KafkaSource(settings, chosen, clock=HastyClock())


def read(source: KafkaSource, wanted: int) -> None:
    """Poll until N records have come."""
    found = []

    def is_all() -> bool:
        with suppress(Retryable):
            found.extend(source.poll(0.2))
        return len(found) >= wanted

    wait_for(f"{wanted} records", is_all)


def wait_for_reason(source: KafkaSource, words: str) -> None:
    """Poll until the source has to wait for a reason with these words."""

    def is_told() -> bool:
        try:
            source.poll(0.2)
        except Retryable as error:
            return words in error.reason
        return False

    wait_for(words, is_told)


def test_worker_takes_up_a_rotated_password_without_restart(
    kafka_secure: SecureCluster, rotating: tuple[KafkaSettings, Path], sources: Keep
) -> None:
    """While the old one is refused the reason is the login; the new file is read by itself."""
    settings, secret = rotating
    admin = replace(kafka_secure.admin, topic_prefix=settings.topic_prefix)
    topic = topic_name("run", settings.topic_prefix)
    source, letters = sources(source_of(settings)), DurableProducer(settings, topic)
    send(admin, topic, EVENTS)
    read(source, len(EVENTS))
    set_password(kafka_secure, settings.sasl_username, "second")
    kafka_secure.restart()  # connections outlive a password, not a broker
    wait_for_reason(source, "Kafka refuses the user or password")
    with pytest.raises(Retryable, match="Kafka refuses the user or password"):
        letters.send([OutgoingRecord(b"k", EVENTS[0].value)])
    secret.write_text("second")
    send(admin, topic, EVENTS)
    read(source, len(EVENTS))
    letters.send([OutgoingRecord(b"k", EVENTS[0].value)])


def test_agent_takes_up_a_rotated_password_while_it_ships(
    kafka_secure: SecureCluster, rotating: tuple[KafkaSettings, Path]
) -> None:
    """A producer that was connected before is opened again as soon as the file has changed."""
    settings, secret = rotating
    broker = KafkaBroker(settings)
    try:
        assert delivered(broker)
        set_password(kafka_secure, settings.sasl_username, "second")
        kafka_secure.restart()
        wait_for_trouble(broker, AUTHENTICATION)
        secret.write_text("second")
        wait_for("a delivery", lambda: delivered(broker))
        assert broker.trouble is None
    finally:
        broker.close()


def wait_for_trouble(broker: KafkaBroker, kind: str) -> None:
    """Serve a broker until it is in trouble of this kind."""

    def is_told() -> bool:
        broker.produce(Message("run", b"k", EVENTS[0].value), lambda _: None)
        broker.poll(0.2)
        return broker.trouble is not None and broker.trouble.kind == kind

    wait_for(kind, is_told)


def delivered(broker: KafkaBroker) -> bool:
    """Whether a message is acknowledged rather than given up."""
    reports: list[Failure | None] = []
    broker.produce(Message("run", b"k", EVENTS[0].value), reports.append)
    wait_for("a report", lambda: broker.poll(0.1) or bool(reports))
    return reports == [None]


@pytest.fixture
def certified(
    kafka_secure: SecureCluster, topic_prefix: str
) -> tuple[KafkaSettings, KafkaSettings]:
    """Agent and worker by certificate, with the rights that they have by password."""
    make_topics(kafka_secure.admin, topic_prefix, ["run"])
    wanted = grants(prefix=topic_prefix, group=f"{topic_prefix}-clickhouse",
                    worker_user="worker", agent_user="agent")  # fmt: skip
    apply(KafkaAdmin(kafka_secure.admin), wanted)
    return (
        replace(kafka_secure.mutual("agent"), topic_prefix=topic_prefix),
        replace(kafka_secure.mutual("worker"), topic_prefix=topic_prefix),
    )


def test_agent_and_worker_log_in_with_client_certificates(
    certified: tuple[KafkaSettings, KafkaSettings], sources: Keep
) -> None:
    """Certificate and key alone, in one file, imply TLS and name the user."""
    agent, worker = certified
    broker = KafkaBroker(agent)
    try:
        assert delivered(broker)
    finally:
        broker.close()
    read(sources(source_of(worker)), 1)


def test_replaced_client_certificate_is_taken_up_without_restart(
    certified: tuple[KafkaSettings, KafkaSettings], sources: Keep, tmp_path: Path
) -> None:
    """One of an unknown authority is refused with a sentence; the right one is read by itself."""
    good = certified[0].ssl_certificate_location
    agent, worker = (
        replace(settings, ssl_certificate_location=str(tmp_path / f"{name}.pem"))
        for name, settings in zip(("agent", "worker"), certified, strict=True)
    )
    make_stranger(tmp_path / "agent.pem")
    shutil.copy(tmp_path / "agent.pem", tmp_path / "worker.pem")
    broker = KafkaBroker(agent)
    source = sources(source_of(worker))
    try:
        wait_for_trouble(broker, TLS)
        assert broker.trouble is not None
        assert "RUNWIRE_KAFKA_SSL_CERTIFICATE_LOCATION" in broker.trouble.sentence
        wait_for_reason(source, "RUNWIRE_KAFKA_SSL_CERTIFICATE_LOCATION")
        shutil.copy(good, tmp_path / "agent.pem")
        shutil.copy(certified[1].ssl_certificate_location, tmp_path / "worker.pem")
        wait_for("a delivery", lambda: delivered(broker))
        read(source, 1)
    finally:
        broker.close()


def make_stranger(path: Path) -> None:
    """Write a certificate that no authority of the brokers has signed, with its key."""
    key = path.with_suffix(".key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=agent",
         "-days", "1", "-keyout", str(key), "-out", str(path)],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + key.read_text())


@pytest.fixture
def two_pipelines(
    kafka_secure: SecureCluster, topic_prefix: str
) -> tuple[KafkaSettings, KafkaSettings]:
    """Two pipelines by prefix whose users may use their own topics, and any group."""
    cluster = KafkaAdmin(kafka_secure.admin)
    found = []
    for number in (1, 2):
        user, prefix = f"u{uuid.uuid4().hex[:8]}", f"{topic_prefix}.{number}"
        set_password(kafka_secure, user, "password")
        make_topics(kafka_secure.admin, prefix, ["run"])
        shared = Grant(user, "group", (f"{topic_prefix}.shared",), ("Read", "Describe"))
        own = grants(prefix=prefix, group=f"{prefix}-clickhouse", worker_user=user)
        apply(cluster, [*own, shared])
        found.append(
            replace(
                kafka_secure.agent,
                topic_prefix=prefix,
                sasl_username=user,
                sasl_password="password",
                sasl_password_file="",
            )
        )
    return found[0], found[1]


def test_second_pipeline_by_prefix_is_read_with_default_groups(
    kafka_secure: SecureCluster, two_pipelines: tuple[KafkaSettings, KafkaSettings], sources: Keep
) -> None:
    """Each prefix has a group of its own, so ACLs of one never starve the other."""
    running = [sources(source_of(settings)) for settings in two_pipelines]
    for settings, source in zip(two_pipelines, running, strict=True):
        send(kafka_secure.admin, topic_name("run", settings.topic_prefix), EVENTS)
        read(source, len(EVENTS))


def test_member_that_gets_nothing_in_a_shared_group_says_so(
    two_pipelines: tuple[KafkaSettings, KafkaSettings], topic_prefix: str, sources: Keep
) -> None:
    """The first member may not see the topics of the second, which is given none of them."""
    shared = f"{topic_prefix}.shared"
    first, second = (source_of(settings, shared) for settings in two_pipelines)
    sources(first)
    sources(second)
    wait_for("the first", lambda: first.poll(0.2) == [] and len(first.assigned) == 2)

    def is_told() -> bool:
        first.poll(0.1)
        try:
            second.poll(0.1)
        except Retryable as error:
            return f"group {shared!r} gives this worker no partitions, and 2 have" in error.reason
        return False

    wait_for("the sentence", is_told)
    assert len(first.assigned) == 2


def test_wrong_password_of_a_new_worker_is_shown_as_the_login(
    kafka_secure: SecureCluster, topic_prefix: str
) -> None:
    """Not as a time-out: the first request already knows the reason."""
    wrong = replace(kafka_secure.worker, sasl_password="wrong", sasl_password_file="")
    source = source_of(replace(wrong, topic_prefix=topic_prefix))
    wait_for_reason(source, "Kafka refuses the user or password")
