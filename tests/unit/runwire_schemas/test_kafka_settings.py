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


def test_client_certificate_reaches_the_client_and_asks_for_tls(tmp_path: Path) -> None:
    """A certificate alone implies SSL; its key may be in the same file."""
    secret = tmp_path / "key.password"
    secret.write_text("s3cret\n")
    whole = KafkaSettings(bootstrap_servers="a", ssl_certificate_location="/etc/me.pem")
    assert whole.client_config() == {
        "bootstrap.servers": "a",
        "security.protocol": "SSL",
        "ssl.certificate.location": "/etc/me.pem",
        "ssl.key.location": "/etc/me.pem",
    }
    apart = KafkaSettings(
        bootstrap_servers="a",
        ssl_certificate_location="/etc/me.pem",
        ssl_key_location="/etc/me.key",
        ssl_key_password_file=str(secret),
    )
    config = apart.client_config()
    assert (config["ssl.key.location"], config["ssl.key.password"]) == ("/etc/me.key", "s3cret")
    assert "s3cret" not in repr(apart) + repr(apart.public())
    assert whole.destination != apart.destination
    assert from_environment(apart.environment()) == apart


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"ssl_key_location": "/k.pem"}, "without its certificate"),
        ({"ssl_key_password": "p"}, "without its certificate"),
        ({"ssl_certificate_location": "/c.pem", "security_protocol": "PLAINTEXT"}, "has no effect"),
    ],
)
def test_half_a_client_certificate_is_refused(changed: dict[str, str], sentence: str) -> None:
    """A key without its certificate, and a certificate without encryption, are mistakes."""
    with pytest.raises(KafkaSettingsError, match=sentence):
        KafkaSettings(bootstrap_servers="a", **changed)


@pytest.mark.parametrize(
    "name",
    [
        "sasl_password_file",
        "ssl_ca_location",
        "ssl_certificate_location",
        "ssl_key_location",
        "ssl_key_password_file",
    ],
)
def test_digest_of_files_changes_with_each_replaced_file(name: str, tmp_path: Path) -> None:
    """A link may be turned to another file, as in Kubernetes; a missing file is no error."""
    names = {"sasl_username": "me", "ssl_certificate_location": str(tmp_path / "c.pem")}
    settings = KafkaSettings(
        bootstrap_servers="a",
        **{**names, "sasl_password_file": str(tmp_path / "p"), name: str(tmp_path / "link")},
    )
    seen = [settings.files_digest()]
    for number in range(2):
        (tmp_path / f"{number}").write_text(f"content {number}")
        (tmp_path / "new").symlink_to(tmp_path / f"{number}")
        (tmp_path / "new").replace(tmp_path / "link")
        seen.append(settings.files_digest())
    assert len(set(seen)) == 3
    assert settings.files_digest() == seen[-1]
