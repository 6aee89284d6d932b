"""Rights of each identity on a broker with ACLs: enough for its job, and nothing more."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from runwire import cli
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.dead_letters import letter_of
from runwire_consumers.core.errors import Fatal
from runwire_consumers.core.health import SelfMetrics
from runwire_consumers.core.source import Record, Span
from runwire_consumers.kafka import acls, topics
from runwire_consumers.kafka.admin import KafkaAdmin
from runwire_consumers.kafka.dead_letters import KafkaDeadLetters
from runwire_consumers.kafka.errors import NotAuthorized
from runwire_consumers.kafka.group_settings import GroupSettings
from runwire_consumers.kafka.source import KafkaSource
from runwire_schemas import codec
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import TOPICS, topic_name
from support.builders import AT_NS, metric_batch, record
from support.servers import Cluster as Brokers
from support.servers import SecureCluster

WAIT_S = 20.0
RECORDS = [kind for kind in TOPICS if kind != "deadletter"]
FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}


@pytest.fixture
def ready(
    kafka_secure: SecureCluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> SecureCluster:
    """Topics and rights as `runwire migrate --acls` makes them."""
    admin = kafka_secure.admin
    for name, value in admin.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RUNWIRE_KAFKA_TOPIC_PREFIX", topic_prefix)
    monkeypatch.setenv("RUNWIRE_WORKER_GROUP", f"{topic_prefix}.workers")
    users = ["--agent-user", "agent", "--worker-user", "worker"]
    assert cli.main(["migrate", "--acls", *users]) == 0
    make(admin, f"{topic_prefix}.foreign")
    return kafka_secure


def make(settings: KafkaSettings, topic: str) -> None:
    new = NewTopic(topic, num_partitions=1, replication_factor=1)
    admin = AdminClient(settings.client_config())  # kept: answers end with their client
    admin.create_topics([new])[topic].result(timeout=WAIT_S)


def produced(settings: KafkaSettings, *names: str) -> list[KafkaError]:
    """Send a message to each topic as the agent does; why some were refused."""
    config: dict[str, Any] = {**settings.client_config(), "log_level": 0, "acks": "all"}
    producer = Producer({**config, "enable.idempotence": True})
    refused: list[KafkaError] = []
    for name in names:
        producer.produce(
            name,
            codec.encode(metric_batch()),
            on_delivery=lambda error, _: refused.append(error) if error else None,
        )
    assert producer.flush(WAIT_S) == 0
    return refused


def consumed(settings: KafkaSettings, names: list[str], group: str) -> KafkaError | None:
    """Join the group, read a message of each topic and commit it; why that was refused."""
    config: dict[str, Any] = {**settings.client_config(), "log_level": 0, "group.id": group}
    consumer = Consumer({**config, "auto.offset.reset": "earliest", "enable.auto.commit": False})
    consumer.subscribe(names)
    missing = set(names)
    try:
        while missing:
            message = consumer.poll(WAIT_S)
            assert message is not None, f"neither a message nor an error from {missing}"
            if message.error() is not None:
                return message.error()
            consumer.commit(message, asynchronous=False)
            missing.discard(message.topic() or "")
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        return reason
    finally:
        consumer.close()
    return None


def assigned(settings: KafkaSettings, topic: str) -> KafkaError | None:
    """Read one message without any group; why it was refused."""
    config: dict[str, Any] = {**settings.client_config(), "log_level": 0, "group.id": "any"}
    consumer = Consumer(config)
    consumer.assign([TopicPartition(topic, 0, 0)])
    message = consumer.poll(WAIT_S)
    consumer.close()
    assert message is not None, f"neither a message nor an error from {topic}"
    return message.error()


def administered(settings: KafkaSettings, prefix: str) -> dict[str, KafkaError | None]:
    """Try what only an administrator may; why each was refused."""
    admin = AdminClient({**settings.client_config(), "log_level": 0})
    topic = topic_name("metric", prefix)
    change = ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    config = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[change])
    right = AclBinding(
        ResourceType.TOPIC, f"{prefix}.foreign", ResourcePatternType.LITERAL, "User:agent", "*",
        AclOperation.READ, AclPermissionType.ALLOW,
    )  # fmt: skip
    tried: dict[str, dict[Any, Any]] = {
        "create": admin.create_topics([NewTopic(f"{prefix}.new", 1, 1)]),
        "delete": admin.delete_topics([topic]),
        "grow": admin.create_partitions([NewPartitions(topic, 50)]),
        "configure": admin.incremental_alter_configs([config]),
        "read the configuration": admin.describe_configs(
            [ConfigResource(ConfigResource.Type.TOPIC, topic)]
        ),
        "give rights": admin.create_acls([right]),
        "delete the group": admin.delete_consumer_groups([f"{prefix}.workers"]),
    }
    return {what: why(next(iter(futures.values())).result) for what, futures in tried.items()}


def why(call: Callable[..., Any]) -> KafkaError | None:
    try:
        call(WAIT_S)
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        return reason
    return None


def is_forbidden(error: KafkaError | None) -> bool:
    return error is not None and error.code() in FORBIDDEN


def test_agent_may_write_and_do_nothing_else(ready: SecureCluster, topic_prefix: str) -> None:
    """With the agent's ACLs writing works; reading, creating and deleting are refused."""
    names = [topic_name(kind, topic_prefix) for kind in TOPICS]
    assert produced(ready.agent, *names) == []
    assert is_forbidden(*produced(ready.agent, f"{topic_prefix}.foreign"))
    assert is_forbidden(assigned(ready.agent, topic_name("metric", topic_prefix)))
    assert is_forbidden(assigned(ready.agent, topic_name("deadletter", topic_prefix)))
    assert is_forbidden(consumed(ready.agent, names[:1], f"{topic_prefix}.workers"))
    transactional = Producer({**ready.agent.client_config(), "transactional.id": topic_prefix})
    assert is_forbidden(why(transactional.init_transactions))
    refused = administered(ready.agent, topic_prefix)
    assert [what for what, error in refused.items() if not is_forbidden(error)] == []


def test_worker_may_read_commit_and_write_dead_letters_only(
    ready: SecureCluster, topic_prefix: str
) -> None:
    """With the worker's ACLs reading, committing and dead letters work; the rest is refused."""
    names = [topic_name(kind, topic_prefix) for kind in RECORDS]
    assert produced(ready.agent, *names) == []
    assert consumed(ready.worker, names, f"{topic_prefix}.workers") is None
    letters = KafkaDeadLetters(replace(ready.worker, topic_prefix=topic_prefix))
    letters.put(letter_of(record(metric_batch(), 0), "disk", at_ns=AT_NS))
    assert letters.flush() == 1
    letters.close()
    refusals = produced(ready.worker, *names, f"{topic_prefix}.foreign")
    assert [is_forbidden(refusal) for refusal in refusals] == [True] * (len(names) + 1)
    assert is_forbidden(consumed(ready.worker, names[:1], f"{topic_prefix}.other"))
    assert is_forbidden(assigned(ready.worker, f"{topic_prefix}.foreign"))
    refused = administered(ready.worker, topic_prefix)
    assert [what for what, error in refused.items() if not is_forbidden(error)] == []


def test_kafka_source_works_with_the_rights_of_the_worker(
    ready: SecureCluster, topic_prefix: str
) -> None:
    """The rights cover topic ids, joining, the intent in the commit and the commit."""
    assert produced(ready.agent, topic_name("metric", topic_prefix)) == []
    wanted = GroupSettings(name=f"{topic_prefix}.workers", kinds=("metric",))
    there = replace(ready.worker, topic_prefix=topic_prefix)
    source = KafkaSource(there, wanted, metrics=SelfMetrics())
    found: list[Record] = []
    deadline = time.monotonic() + WAIT_S
    while not found and time.monotonic() < deadline:
        found = source.poll(0.5)
    spans = {found[0].partition: Span(found[0].offset, found[0].last_offset)}
    source.intend([spans])
    source.commit(spans)
    source.close(Deadline(1))


def test_worker_rights_cover_groups_of_the_new_protocol(
    ready: SecureCluster, topic_prefix: str
) -> None:
    """KIP-848 asks for other rights; ours are enough."""
    metric = topic_name("metric", topic_prefix)
    assert produced(ready.agent, metric) == []
    config: dict[str, Any] = {**ready.worker.client_config(), "group.protocol": "consumer"}
    consumer = Consumer(
        {**config, "group.id": f"{topic_prefix}.workers", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([metric])
    message = consumer.poll(WAIT_S)
    assert message is not None
    assert message.error() is None
    consumer.commit(message, asynchronous=False)
    consumer.close()


def test_migrate_creates_only_acls_that_are_missing(
    ready: SecureCluster, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user with all rights gets none again; another user gets two for each topic."""
    capsys.readouterr()
    assert cli.main(["migrate", "--acls", "--agent-user", "agent"]) == 0
    assert capsys.readouterr().out == ""
    assert cli.main(["migrate", "--acls", "--agent-user", "another"]) == 0
    given = capsys.readouterr().out.splitlines()
    assert len(given) == 2 * len(TOPICS)
    assert f"allowed: User:another Write on topic {topic_name('run', topic_prefix)}" in given


def test_migrate_names_the_print_command_when_rights_are_missing(
    ready: SecureCluster, topic_prefix: str
) -> None:
    """For topics and for ACLs the sentence names the user and the command that prints."""
    cluster = KafkaAdmin(ready.agent)
    with pytest.raises(NotAuthorized, match=r"user 'agent' may not.*--print kafka"):
        topics.apply(cluster, prefix=f"{topic_prefix}.other")
    wanted = acls.grants(prefix=topic_prefix, group="g", agent_user="somebody")
    with pytest.raises(NotAuthorized, match=r"user 'agent' may not.*--print kafka"):
        acls.apply(cluster, wanted)


def test_wrong_login_shows_its_own_reason_and_variable(
    ready: SecureCluster, topic_prefix: str
) -> None:
    """Wrong password, certificate or protocol: each names the variable to check."""
    wrong = dataclasses.replace(ready.agent, sasl_password="no", sasl_password_file="")
    with pytest.raises(Fatal, match="RUNWIRE_KAFKA_SASL_USERNAME"):
        topics.apply(KafkaAdmin(wrong), prefix=topic_prefix)
    unknown = dataclasses.replace(ready.agent, ssl_ca_location="")
    with pytest.raises(Fatal, match="RUNWIRE_KAFKA_SSL_CA_LOCATION"):
        topics.apply(KafkaAdmin(unknown), prefix=topic_prefix)


def test_migrate_warns_when_the_cluster_checks_no_acls(kafka: Brokers, topic_prefix: str) -> None:
    """ACLs on a cluster without an authorizer would protect nothing."""
    wanted = acls.grants(prefix=topic_prefix, group="g", agent_user="agent")
    with pytest.raises(Fatal, match="this cluster checks no rights"):
        acls.apply(KafkaAdmin(kafka.settings), wanted)
