"""Topics: names with and without a prefix, and a configuration that holds what we send."""

from __future__ import annotations

import pytest

from runwire_schemas.bounds import MESSAGE_BYTES_MAX
from runwire_schemas.connections.kafka import KafkaSettingsError
from runwire_schemas.errors import SchemaError
from runwire_schemas.topics import TOPICS, kind_of_topic, replication, topic_name


@pytest.mark.parametrize("prefix", ["runwire", "team.b", "t-1_x", "", "metric.v1"])
@pytest.mark.parametrize("kind", TOPICS)
def test_topic_name_leads_back_to_its_kind(kind: str, prefix: str) -> None:
    """For every kind and prefix, the empty one being the default."""
    name = topic_name(kind, prefix)
    assert name == f"{prefix or 'runwire'}.{kind}.v1"
    assert kind_of_topic(name, prefix) == kind


@pytest.mark.parametrize(
    "name",
    ["", "runwire.metric", "runwire.metric.v2", "runwire.x.v1", "other.metric.v1", "runwire.v1"],
)
def test_topic_of_another_form_is_refused(name: str) -> None:
    """Other prefixes, versions and kinds are no topics of ours."""
    with pytest.raises(SchemaError, match="is no runwire"):
        kind_of_topic(name)


@pytest.mark.parametrize("prefix", ["a b", ".", "-x", "a/b", "\u00e4", "a\n", "x" * 201])
def test_prefix_that_kafka_refuses_is_named(prefix: str) -> None:
    """The error names the variable."""
    with pytest.raises(KafkaSettingsError, match="RUNWIRE_KAFKA_TOPIC_PREFIX"):
        topic_name("metric", prefix)


def test_unknown_kind_is_refused_with_the_known_ones() -> None:
    """The error lists the kinds."""
    with pytest.raises(SchemaError, match="'nonsense' has no topic; the kinds are run, param"):
        topic_name("nonsense")


def test_replication_follows_the_number_of_brokers() -> None:
    """One broker holds one copy, two hold two of which one may be lost, three tolerate one loss."""
    assert [replication(brokers) for brokers in (1, 2, 3, 9)] == [(1, 1), (2, 1), (3, 2), (3, 2)]
    assert TOPICS["run"].configuration(brokers=2)["min.insync.replicas"] == "1"


def test_largest_message_and_its_dead_letter_fit_their_topics() -> None:
    """Otherwise a writer could be stuck on a batch for ever, and a worker on a record."""
    record = int(TOPICS["metric"].configuration(brokers=1)["max.message.bytes"])
    letter = int(TOPICS["deadletter"].configuration(brokers=1)["max.message.bytes"])
    assert record > MESSAGE_BYTES_MAX
    assert MESSAGE_BYTES_MAX + record <= letter
