"""The brokers of the tests are real: they store, and answer again after a stop and after a kill."""

import pytest

from integration.servers.kafka_clients import VALUES, consume, create, produce
from support.servers import Cluster


def test_what_is_produced_is_consumed(kafka: Cluster, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.metric.v1"
    create(kafka.settings, topic)
    assert produce(kafka.settings, topic, VALUES) == []
    assert consume(kafka.settings, topic, len(VALUES)) == VALUES


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_messages_survive_a_restart(kafka: Cluster, topic_prefix: str, how: str) -> None:
    """The address stays and nothing acknowledged is gone, after SIGTERM and after SIGKILL."""
    topic = f"{topic_prefix}.metric.v1"
    create(kafka.settings, topic)
    produce(kafka.settings, topic, VALUES)
    kafka.stop() if how == "stop" else kafka.kill()
    kafka.start()
    assert consume(kafka.settings, topic, len(VALUES)) == VALUES


def test_two_of_three_brokers_go_on(kafka3: Cluster, topic_prefix: str) -> None:
    """Messages are accepted and read while one broker is killed, and all are there afterwards."""
    topic = f"{topic_prefix}.metric.v1"
    create(kafka3.settings, topic, copies=3)
    assert produce(kafka3.settings, topic, VALUES[:50]) == []
    kafka3.kill(1)
    try:
        assert produce(kafka3.settings, topic, VALUES[50:], acks="all") == []
        assert consume(kafka3.settings, topic, len(VALUES)) == VALUES
    finally:
        kafka3.start()
