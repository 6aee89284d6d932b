"""Causes of delivery trouble: each wrong setting shows its own reason and variable."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from runwire_agent.ship.broker import (
    AUTHENTICATION,
    DENIED,
    TLS,
    UNREACHABLE,
    UNUSABLE,
    Failure,
    Message,
)
from runwire_agent.ship.kafka import KafkaBroker
from runwire_consumers.kafka.acls import apply, grants
from runwire_consumers.kafka.admin import KafkaAdmin
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import TOPICS
from support.agents import Agents
from support.kafka_log import read_topic
from support.servers import Cluster, SecureCluster
from support.shipping import distinct_batches, points_of
from support.topics import make_topics
from support.watched import wait_until

END_S = 60
KINDS = [kind for kind, topic in TOPICS.items() if topic.schema is not None]


def trouble_of(settings: KafkaSettings, kind: str) -> Failure:
    """What a broker object says once it is in trouble of that kind; it never delivers."""
    broker = KafkaBroker(settings)
    reports: list[Failure | None] = []
    broker.produce(Message("metric", b"k", b"v"), reports.append)

    def is_told() -> bool:
        broker.poll(0.1)
        return broker.trouble is not None and broker.trouble.kind == kind

    try:
        wait_until(is_told)
        assert None not in reports
        assert broker.trouble is not None
        assert not broker.is_reachable(1.0)
        return broker.trouble
    finally:
        broker.close()


Change = Callable[[KafkaSettings], KafkaSettings]
MISTAKES: dict[str, tuple[Change, str, str]] = {
    "wrong password": (
        lambda s: replace(s, sasl_password="wrong", sasl_password_file=""),
        AUTHENTICATION,
        "SASL authentication failed at {0} for user 'agent' with SCRAM-SHA-512: check",
    ),
    "unknown user": (
        lambda s: replace(s, sasl_username="nobody"),
        AUTHENTICATION,
        "for user 'nobody'",
    ),
    "wrong mechanism": (
        lambda s: replace(s, sasl_mechanism="PLAIN"),
        AUTHENTICATION,
        "set RUNWIRE_KAFKA_SASL_MECHANISM",
    ),
    "unknown authority": (
        lambda s: replace(s, ssl_ca_location=""),
        TLS,
        "set RUNWIRE_KAFKA_SSL_CA_LOCATION",
    ),
    "no TLS": (
        lambda s: replace(s, security_protocol="SASL_PLAINTEXT"),
        TLS,
        "RUNWIRE_KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT",
    ),
    "no login": (
        lambda s: replace(
            s, security_protocol="SSL", sasl_mechanism="", sasl_username="", sasl_password_file=""
        ),
        TLS,
        "RUNWIRE_KAFKA_SECURITY_PROTOCOL is SSL",
    ),
    "no such file": (
        lambda s: replace(s, ssl_ca_location="/nowhere/ca.pem"),
        UNUSABLE,
        "ssl.ca.location",
    ),
    "no such password file": (
        lambda s: replace(s, sasl_password_file="/nowhere/password"),
        UNUSABLE,
        "RUNWIRE_KAFKA_SASL_PASSWORD_FILE=/nowhere/password",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_kafka_setting_shows_its_cause_and_variable(
    kafka_secure: SecureCluster, mistake: str
) -> None:
    """Each wrong setting gives its kind of failure and the sentence that names it, no password."""
    change, kind, words = MISTAKES[mistake]
    told = trouble_of(change(kafka_secure.agent), kind).sentence
    assert words.format(kafka_secure.bootstrap) in told
    assert "wrong" not in told.replace("wrong version", "")  # the password


def test_tls_towards_a_plain_broker_names_the_protocol_setting(kafka: Cluster) -> None:
    """A client with TLS at a broker without it names RUNWIRE_KAFKA_SECURITY_PROTOCOL."""
    told = trouble_of(replace(kafka.settings, security_protocol="SSL"), TLS).sentence
    assert "RUNWIRE_KAFKA_SECURITY_PROTOCOL is SSL" in told


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "no broker answers at"),
        ("nowhere.invalid:9092", "DNS has no address for"),
    ],
)
def test_unreachable_address_is_named_in_the_cause(address: str, words: str) -> None:
    """A closed port and a name without an address are told apart, each with the address."""
    told = trouble_of(KafkaSettings(bootstrap_servers=address), UNREACHABLE).sentence
    assert f"{words} {address}" in told


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    made = Agents(tmp_path)
    yield made
    made.close()


def allow(cluster: SecureCluster, prefix: str, *, without: str = "") -> None:
    """Give the agent what `runwire migrate` would, less one topic."""
    wanted = grants(prefix=prefix, group="unused", agent_user="agent")
    less = [replace(g, names=tuple(n for n in g.names if n != without)) for g in wanted]
    apply(KafkaAdmin(cluster.admin), less)


def test_agent_ships_allowed_topics_and_names_a_missing_right(
    agents: Agents, kafka_secure: SecureCluster, topic_prefix: str
) -> None:
    """With no right, all but one, then all: allowed topics flow, the rest is reported and kept."""
    admin = replace(kafka_secure.admin, topic_prefix=topic_prefix)
    settings = replace(kafka_secure.agent, topic_prefix=topic_prefix)
    metric = f"{topic_prefix}.metric.v1"
    make_topics(admin, topic_prefix, KINDS)
    agent = agents.agent(settings, idle_s=1.0)
    assert agents.trainer(settings, steps=30).wait(END_S) == 0
    wait_until(lambda: agents.state().cause == DENIED)
    assert "user 'agent' may" in agents.state().sentence
    allow(kafka_secure, topic_prefix, without=metric)
    wait_until(lambda: f"user 'agent' may not write to topic {metric}" in agents.state().sentence)
    wait_until(lambda: len(read_topic(admin, "run")) >= 2)
    assert read_topic(admin, "metric") == []
    allow(kafka_secure, topic_prefix)
    assert agent.wait(END_S) == 0, agents.log_text()
    assert len(set(points_of(distinct_batches(read_topic(admin, "metric"))))) == 60
    assert agents.state().cause == ""


def test_agent_reads_a_corrected_password_file_without_restart(
    agents: Agents, kafka_secure: SecureCluster, topic_prefix: str, tmp_path: Path
) -> None:
    """The file is read again while the agent is refused, so secrets can be rotated."""
    admin = replace(kafka_secure.admin, topic_prefix=topic_prefix)
    make_topics(admin, topic_prefix, KINDS)
    allow(kafka_secure, topic_prefix)
    secret = tmp_path / "password"
    secret.write_text("wrong")
    settings = replace(
        kafka_secure.agent, topic_prefix=topic_prefix, sasl_password_file=str(secret)
    )
    agent = agents.agent(settings, idle_s=1.0)
    assert agents.trainer(settings, steps=30).wait(END_S) == 0
    wait_until(lambda: agents.state().cause == AUTHENTICATION)
    secret.write_text(kafka_secure.agent.password)
    assert agent.wait(END_S) == 0, agents.log_text()
    assert agents.log_text().count("SASL authentication failed") == 1
    assert len(set(points_of(distinct_batches(read_topic(admin, "metric"))))) == 60


def test_init_replaces_a_refused_agent_after_its_password_changes(
    agents: Agents, kafka_secure: SecureCluster, topic_prefix: str
) -> None:
    """A password in the environment cannot be read again: the next `init` starts another agent."""
    admin = replace(kafka_secure.admin, topic_prefix=topic_prefix)
    make_topics(admin, topic_prefix, KINDS)
    allow(kafka_secure, topic_prefix)
    right = replace(
        kafka_secure.agent,
        topic_prefix=topic_prefix,
        sasl_password=kafka_secure.agent.password,
        sasl_password_file="",
    )
    wrong = replace(right, sasl_password="wrong")
    assert wrong.destination == right.destination
    refused = agents.agent(wrong, idle_s=60)
    assert agents.trainer(wrong, steps=30).wait(END_S) == 0
    wait_until(lambda: agents.state().cause == AUTHENTICATION)
    assert agents.trainer(right, steps=30, mode="process", wait_s=30).wait(END_S) == 0
    assert refused.wait(END_S) == 0
    successor = agents.state().pid
    assert successor != refused.pid
    try:
        wait_until(lambda: len(distinct_batches(read_topic(admin, "metric"))) >= 2)
    finally:
        os.kill(successor, signal.SIGTERM)
        wait_until(lambda: not psutil.pid_exists(successor))
