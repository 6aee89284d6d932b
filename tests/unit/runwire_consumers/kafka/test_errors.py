"""Treatments and sentences of Kafka's error codes."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from runwire_consumers.core.errors import Fatal
from runwire_consumers.kafka.errors import (
    FENCED,
    NO_WAY,
    Treatment,
    cause_of,
    explain,
    retryable,
    treatment,
)

CODES = {
    name: code for name in dir(KafkaError) if isinstance(code := getattr(KafkaError, name), int)
}
SERVERS = "kafka-1:9092"
STOPS = {
    "FENCED_INSTANCE_ID",
    "INVALID_GROUP_ID",
    "INVALID_SESSION_TIMEOUT",
    "UNSUPPORTED_ASSIGNOR",
    "UNSUPPORTED_VERSION",
    "_UNSUPPORTED_FEATURE",
    "UNSUPPORTED_SASL_MECHANISM",
    "ILLEGAL_SASL_STATE",
    "TOPIC_EXCEPTION",
    "INVALID_REQUIRED_ACKS",
    "_INVALID_ARG",
    "_NOT_CONFIGURED",
    "_NOT_IMPLEMENTED",
    "_UNKNOWN_PROTOCOL",
}


@pytest.mark.parametrize("name", CODES)
def test_every_code_of_the_client_has_a_treatment_with_its_text(name: str) -> None:
    """A code ends the worker with a sentence, or is retried; its own name and text stay."""
    error = KafkaError(CODES[name], "the broker's words")
    if name in STOPS:
        with pytest.raises(Fatal, match="the broker's words"):
            retryable(error, SERVERS)
        return
    assert treatment(error.code()) is not Treatment.STOP
    reason = retryable(error, SERVERS).reason
    assert f"({error.name()}: the broker's words)" in reason
    assert ("is it running" in reason) == (name == "_ALL_BROKERS_DOWN")


def test_code_that_nobody_knows_is_retried_under_its_own_text() -> None:
    """A newer broker's code neither ends a worker nor looks like an outage."""
    error = KafkaError(9999, "something new")
    assert treatment(error.code()) is Treatment.RETRY
    assert retryable(error, SERVERS).reason.endswith("something new)")


def test_fenced_member_joins_again_and_never_stops() -> None:
    """Members that a group excluded are treated by a new membership, not by an end."""
    assert {treatment(code) for code in FENCED} == {Treatment.RETRY}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError.FENCED_INSTANCE_ID, Treatment.STOP),
        (KafkaError.UNRELEASED_INSTANCE_ID, Treatment.RETRY),
    ],
)
def test_fatal_error_is_treated_as_the_error_in_its_text(code: int, kind: Treatment) -> None:
    """librdkafka's fatal error has one code for all causes and the cause in its words."""
    words = f"Fatal error: {KafkaError(code).str()}: consumer"
    found = cause_of(KafkaError(CODES["_FATAL"], words))
    assert (found.code(), treatment(found.code())) == (code, kind)
    assert cause_of(KafkaError(CODES["_FATAL"], "new")).code() == CODES["_FATAL"]


@pytest.mark.parametrize("code", sorted(NO_WAY))
def test_broker_that_only_the_cluster_named_is_in_the_sentence(code: int) -> None:
    """An address from advertised.listeners is told from the one in the settings."""
    far = KafkaError(code, "sasl_ssl://internal-2:9093/2: Failed to resolve 'internal-2:9093'")
    assert "sends its clients to internal-2:9093" in explain(far, SERVERS)
    own = KafkaError(code, f"{SERVERS}/bootstrap: Connect to ipv4#10.0.0.1:9092 failed")
    assert "sends its clients" not in explain(own, SERVERS)
    named = KafkaError(code, f"{SERVERS}/1: Connect to ipv4#10.0.0.1:9092 failed")
    assert "sends its clients" not in explain(named, SERVERS)


@pytest.mark.parametrize("code", sorted(NO_WAY))
def test_certificate_that_a_broker_refuses_is_no_lost_connection(code: int) -> None:
    """The reason is in the words alone; the sentence names the setting of the certificate."""
    words = "ssl://kafka-1:9093/1: Receive failed: error:0A:SSL routines::alert bad certificate"
    assert "SSL_CERTIFICATE_LOCATION" in explain(cause_of(KafkaError(code, words)), SERVERS)
