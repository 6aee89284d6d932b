"""One description of a Kafka destination; secrets stay out of what is written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire_schemas.connections.kafka import KafkaSettings, KafkaSettingsError, from_environment

SECURE = {
    "RUNWIRE_KAFKA_BOOTSTRAP_SERVERS": "b:9093, a:9093",
    "RUNWIRE_KAFKA_SASL_USERNAME": "trainer",
    "RUNWIRE_KAFKA_SASL_PASSWORD": "s3cret",
    "RUNWIRE_KAFKA_SSL_CA_LOCATION": "/etc/ca.pem",
}


def test_protocol_follows_from_login_and_certificate() -> None:
    """SASL and TLS settings imply SASL_SSL and SCRAM-SHA-512; the environment round-trips."""
    settings = from_environment(SECURE)
    assert settings is not None
    assert settings.client_config() == {
        "bootstrap.servers": "b:9093, a:9093",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "trainer",
        "sasl.password": "s3cret",
        "ssl.ca.location": "/etc/ca.pem",
    }
    assert settings.environment() == SECURE | {"RUNWIRE_KAFKA_TOPIC_PREFIX": "runwire"}
    assert from_environment(settings.environment()) == settings


def test_public_facts_of_kafka_hold_no_password() -> None:
    """Neither repr nor the public facts hold the password; the order of brokers does not matter."""
    settings = from_environment(SECURE)
    assert settings is not None
    assert "s3cret" not in repr(settings) + repr(settings.public())
    assert settings.public()["sasl_password"] == {"environment": "RUNWIRE_KAFKA_SASL_PASSWORD"}
    turned = from_environment(SECURE | {"RUNWIRE_KAFKA_BOOTSTRAP_SERVERS": "a:9093,b:9093"})
    assert turned is not None
    assert turned.destination == settings.destination
    other = from_environment(SECURE | {"RUNWIRE_KAFKA_SASL_USERNAME": "other"})
    assert other is not None
    assert other.destination != settings.destination


def test_destination_differs_when_the_topic_prefix_differs() -> None:
    """Two pipelines on one cluster have an agent each; the default prefix may be named."""
    plain = KafkaSettings(bootstrap_servers="a")
    said = KafkaSettings(bootstrap_servers="a", topic_prefix="runwire")
    other = KafkaSettings(bootstrap_servers="a", topic_prefix="team.b")
    assert plain.destination == said.destination != other.destination
    assert other.public()["topic_prefix"] == "team.b"
    assert other.environment()["RUNWIRE_KAFKA_TOPIC_PREFIX"] == "team.b"


def test_settings_are_none_when_no_brokers_are_named() -> None:
    """An empty variable counts as unset."""
    assert from_environment({}) is None
    assert from_environment({"RUNWIRE_KAFKA_BOOTSTRAP_SERVERS": " "}) is None


def test_password_file_is_read_at_each_use(tmp_path: Path) -> None:
    """A rotated secret is seen; a missing file is named."""
    secret = tmp_path / "secret"
    settings = KafkaSettings(
        bootstrap_servers="a", sasl_username="u", sasl_password_file=str(secret)
    )
    with pytest.raises(KafkaSettingsError, match="secret: No such file"):
        settings.client_config()
    secret.write_text("one\n")
    assert settings.client_config()["sasl.password"] == "one"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"security_protocol": "TLS"}, "SECURITY_PROTOCOL='TLS': use one of PLAINTEXT, SSL"),
        ({"sasl_mechanism": "MD5"}, "SASL_MECHANISM='MD5': use one of PLAIN, SCRAM"),
        ({"sasl_username": "u"}, "set RUNWIRE_KAFKA_SASL_PASSWORD_FILE too"),
        ({"sasl_password": "x"}, "set RUNWIRE_KAFKA_SASL_USERNAME too"),
        ({"security_protocol": "SASL_SSL"}, "SASL_SSL needs RUNWIRE_KAFKA_SASL_USERNAME"),
        ({"topic_prefix": "a b"}, "TOPIC_PREFIX='a b': use letters"),
    ],
)
def test_contradicting_settings_are_refused_with_the_variable(
    wrong: dict[str, str], says: str
) -> None:
    """The error names the variable to set, or the accepted words."""
    with pytest.raises(KafkaSettingsError, match=says):
        KafkaSettings(bootstrap_servers="a:9092", **wrong)
