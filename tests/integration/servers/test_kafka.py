"""The brokers of the tests are real: they store messages and survive stops and kills."""

import pytest

from integration.servers.kafka_clients import VALUES, consume, create, produce
from support.servers import Cluster


def test_broker_returns_all_produced_messages(kafka: Cluster, topic_prefix: str) -> None:
    """Messages that were produced to a topic are consumed from it."""
    topic = f"{topic_prefix}.metric.v1"
    create(kafka.settings, topic)
    assert produce(kafka.settings, topic, VALUES) == []
    assert consume(kafka.settings, topic, len(VALUES)) == VALUES


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_messages_survive_stop_and_kill_of_the_broker(
    kafka: Cluster, topic_prefix: str, how: str
) -> None:
    """The address stays and no acknowledged message is lost, after SIGTERM and after SIGKILL."""
    topic = f"{topic_prefix}.metric.v1"
    create(kafka.settings, topic)
    produce(kafka.settings, topic, VALUES)
    kafka.stop() if how == "stop" else kafka.kill()
    kafka.start()
    assert consume(kafka.settings, topic, len(VALUES)) == VALUES


def test_two_of_three_brokers_accept_and_serve_messages(kafka3: Cluster, topic_prefix: str) -> None:
    """One of three brokers is killed: messages are accepted and read, and none is missing later."""
    topic = f"{topic_prefix}.metric.v1"
    create(kafka3.settings, topic, copies=3)
    assert produce(kafka3.settings, topic, VALUES[:50]) == []
    kafka3.kill(1)
    try:
        assert produce(kafka3.settings, topic, VALUES[50:], acks="all") == []
        assert consume(kafka3.settings, topic, len(VALUES)) == VALUES
    finally:
        kafka3.start()
