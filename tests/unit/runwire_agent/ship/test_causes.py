"""Causes that the agent shows for every error code of the Kafka client."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from runwire_agent.ship.broker import (
    AUTHENTICATION,
    DENIED,
    GIVEN_UP,
    OTHER,
    TLS,
    TOO_LARGE,
    UNKNOWN_TOPIC,
    UNREACHABLE,
)
from runwire_agent.ship.causes import connection_failure, delivery_failure, error_name
from runwire_schemas.connections.kafka import KafkaSettings

SETTINGS = KafkaSettings(bootstrap_servers="kafka-1:9092")
CODES = {
    name: code for name in dir(KafkaError) if isinstance(code := getattr(KafkaError, name), int)
}
OF_CLIENT = {
    "_AUTHENTICATION": AUTHENTICATION,
    "SASL_AUTHENTICATION_FAILED": AUTHENTICATION,
    "UNSUPPORTED_SASL_MECHANISM": AUTHENTICATION,
    "_SSL": TLS,
    "CLUSTER_AUTHORIZATION_FAILED": DENIED,
    **dict.fromkeys(("_ALL_BROKERS_DOWN", "_TRANSPORT", "_TIMED_OUT", "_RESOLVE"), UNREACHABLE),
}
OF_MESSAGE = {
    "TOPIC_AUTHORIZATION_FAILED": DENIED,
    **dict.fromkeys(("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_MSG_SIZE"), TOO_LARGE),
    **dict.fromkeys(("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"),
                    UNKNOWN_TOPIC),
    **dict.fromkeys(("_PURGE_QUEUE", "_PURGE_INFLIGHT", "_MSG_TIMED_OUT", "_FATAL", "_FENCED"),
                    GIVEN_UP),
}  # fmt: skip


@pytest.mark.parametrize("name", CODES)
def test_every_code_has_a_cause_with_its_own_words(name: str) -> None:
    """Codes without a row are shown by name and words, and never as an outage."""
    shown = error_name(KafkaError(CODES[name]))
    of_client = connection_failure(SETTINGS, shown, "the broker's words")
    assert of_client.kind == OF_CLIENT.get(shown, OTHER)
    assert "the broker's words" in of_client.sentence or of_client.kind == DENIED
    of_message = delivery_failure(SETTINGS, "t", shown, "the broker's words")
    assert of_message.kind == OF_MESSAGE.get(shown, OTHER)
    if of_message.kind == OTHER:
        assert f"{shown}: the broker's words" in of_message.sentence
    assert ("no broker answers" in of_client.sentence) == (
        shown in {"_ALL_BROKERS_DOWN", "_TRANSPORT", "_TIMED_OUT"}
    )


@pytest.mark.parametrize("name", ["_RESOLVE", "_TRANSPORT", "_TIMED_OUT"])
def test_broker_that_only_the_cluster_named_is_in_the_cause(name: str) -> None:
    """An address from advertised.listeners is told from the one in the settings."""
    words = "internal-2:9092/2: Failed to resolve 'internal-2:9092': Name or service not known"
    far = connection_failure(SETTINGS, name, words)
    assert (far.kind, "sends its clients to internal-2:9092" in far.sentence) == (UNREACHABLE, True)
    own = connection_failure(SETTINGS, name, "kafka-1:9092/bootstrap: Connect failed")
    assert "sends its clients" not in own.sentence
