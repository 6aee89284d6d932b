"""The secure broker refuses: strangers, wrong passwords, other authorities, users without ACL."""

from dataclasses import replace

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from integration.servers.kafka_clients import VALUES, WAIT_S, consume, create, poll, produce
from runwire_schemas.connections.kafka import KafkaSettings
from support.servers import SecureCluster

# An idempotent producer whose user may write to no topic is refused by the cluster, not the topic.
PLAIN = {"enable.idempotence": False}


def allow(cluster: SecureCluster, user: str, operation: AclOperation, topic: str) -> None:
    kind, name = ResourceType.TOPIC, topic
    if operation is AclOperation.ALL:
        kind = ResourceType.GROUP
    acl = AclBinding(
        kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation,
        AclPermissionType.ALLOW,
    )  # fmt: skip
    admin = AdminClient(cluster.admin.client_config())  # kept: answers end with their client
    for answer in admin.create_acls([acl]).values():
        answer.result(timeout=WAIT_S)


def reasons(settings: KafkaSettings) -> list[str]:
    """The errors that a client gets when it cannot log in."""
    told: list[str] = []
    admin = AdminClient(
        {
            **settings.client_config(),
            "error_cb": lambda error: told.append(f"{error.name()}: {error.str()}"),
            "log_level": 0,
        }
    )
    for _ in range(int(WAIT_S)):
        try:
            admin.list_topics(timeout=1)
        except KafkaException:
            admin.poll(0)
            if told:
                return told
        else:
            return []
    return told


def test_admin_may_create_write_and_read(kafka_secure: SecureCluster, topic_prefix: str) -> None:
    """The user admin creates a topic, writes to it and reads it without any ACL."""
    topic = f"{topic_prefix}.metric.v1"
    create(kafka_secure.admin, topic)
    assert produce(kafka_secure.admin, topic, VALUES) == []
    assert consume(kafka_secure.admin, topic, len(VALUES)) == VALUES


def test_user_without_acl_may_not_write(kafka_secure: SecureCluster, topic_prefix: str) -> None:
    """A user without ACLs is refused with TOPIC_AUTHORIZATION_FAILED."""
    topic = f"{topic_prefix}.metric.v1"
    create(kafka_secure.admin, topic)
    refused = produce(kafka_secure.agent, topic, VALUES[:1], **PLAIN)
    assert [error.code() for error in refused] == [KafkaError.TOPIC_AUTHORIZATION_FAILED]


def test_acl_allows_exactly_the_operation_it_names(
    kafka_secure: SecureCluster, topic_prefix: str
) -> None:
    """The agent writes and cannot read; the worker reads and cannot write."""
    topic = f"{topic_prefix}.metric.v1"
    create(kafka_secure.admin, topic)
    allow(kafka_secure, "agent", AclOperation.WRITE, topic)
    allow(kafka_secure, "worker", AclOperation.READ, topic)
    allow(kafka_secure, "worker", AclOperation.ALL, topic)
    assert produce(kafka_secure.agent, topic, VALUES) == []
    assert consume(kafka_secure.worker, topic, len(VALUES)) == VALUES
    refused = produce(kafka_secure.worker, topic, VALUES[:1], **PLAIN)
    assert [error.code() for error in refused] == [KafkaError.TOPIC_AUTHORIZATION_FAILED]
    told: list[int] = []

    def remember(error: KafkaError) -> bool:
        told.append(error.code())
        return True

    poll(kafka_secure.agent, topic, on_error=remember)
    assert told == [KafkaError.GROUP_AUTHORIZATION_FAILED]


def test_broker_refuses_a_wrong_password(kafka_secure: SecureCluster) -> None:
    """The right password connects, a wrong one fails with an authentication error."""
    wrong = replace(kafka_secure.agent, sasl_password_file="", sasl_password="guessed")
    assert reasons(kafka_secure.agent) == []
    assert any(told.startswith("_AUTHENTICATION") for told in reasons(wrong))


def test_client_without_the_authority_refuses_the_broker(kafka_secure: SecureCluster) -> None:
    """A client that does not know the certificate authority fails with an SSL error."""
    wrong = replace(kafka_secure.agent, ssl_ca_location="")
    assert any("_SSL" in told for told in reasons(replace(wrong, security_protocol="SASL_SSL")))
