"""Topics: names with and without a prefix, and a configuration that holds what we send."""

from __future__ import annotations

import pytest

from runwire_schemas.bounds import MESSAGE_BYTES_MAX
from runwire_schemas.errors import SchemaError
from runwire_schemas.topics import TOPICS, kind_of_topic, replication, topic_name


@pytest.mark.parametrize("prefix", ["runwire", "team.b", "t-1_x", "", "metric.v1"])
@pytest.mark.parametrize("kind", TOPICS)
def test_a_name_leads_back_to_its_kind(kind: str, prefix: str) -> None:
    name = topic_name(kind, prefix)
    assert name == f"{prefix or 'runwire'}.{kind}.v1"
    assert kind_of_topic(name, prefix) == kind


@pytest.mark.parametrize(
    "name",
    ["", "runwire.metric", "runwire.metric.v2", "runwire.x.v1", "other.metric.v1", "runwire.v1"],
)
def test_foreign_topics_are_refused(name: str) -> None:
    with pytest.raises(SchemaError, match="is no runwire"):
        kind_of_topic(name)


@pytest.mark.parametrize("prefix", ["a b", ".", "-x", "a/b", "\u00e4", "a\n", "x" * 201])
def test_a_prefix_that_kafka_refuses_is_named(prefix: str) -> None:
    with pytest.raises(SchemaError, match="RUNWIRE_KAFKA_TOPIC_PREFIX"):
        topic_name("metric", prefix)


def test_an_unknown_kind_has_no_topic() -> None:
    with pytest.raises(SchemaError, match="'nonsense' has no topic; the kinds are run, param"):
        topic_name("nonsense")


def test_replicas_follow_the_cluster() -> None:
    """All of acks=all is one broker, then two that may become one, then two of three."""
    assert [replication(brokers) for brokers in (1, 2, 3, 9)] == [(1, 1), (2, 1), (3, 2), (3, 2)]
    assert TOPICS["run"].configuration(brokers=2)["min.insync.replicas"] == "1"


def test_the_largest_message_fits_and_its_dead_letter_too() -> None:
    """Else a writer could be stuck on a batch for ever, and a worker on a record."""
    record = int(TOPICS["metric"].configuration(brokers=1)["max.message.bytes"])
    letter = int(TOPICS["deadletter"].configuration(brokers=1)["max.message.bytes"])
    assert record > MESSAGE_BYTES_MAX
    assert MESSAGE_BYTES_MAX + record <= letter
