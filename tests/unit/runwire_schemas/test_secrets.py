"""Secrets are described by their place, in files of this version and of earlier ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runwire_disk.agents.state import read_state
from runwire_disk.outbox.request import REQUEST_FILE, UploadRequest
from runwire_disk.spool.format import META_FILE, destination_of
from runwire_disk.spool.reader import read_meta
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.connections.s3 import S3Settings
from runwire_schemas.connections.secret import Secret, SecretError, facts_digest, read_facts
from support.shipping import kafka_writer
from support.uploads import leave

FILED = KafkaSettings(
    bootstrap_servers="b:9093", sasl_username="u", sasl_password_file="/etc/password"
)
BY_VALUE = KafkaSettings(bootstrap_servers="b:9093", sasl_username="u", sasl_password="s3cret")
PLAIN = KafkaSettings(bootstrap_servers="a:1,b:2", topic_prefix="team.b")
FILED_BEFORE = {**FILED.public(), "sasl_password": "file /etc/password"}


@pytest.mark.parametrize(
    "secret",
    [Secret(file="/a b/c"), Secret(value="s3cret", environment="NAME")],
)
def test_secret_is_read_back_from_its_description_without_its_value(secret: Secret) -> None:
    """The pair `describe` and `from_description` keeps the place and drops the value."""
    described = json.dumps(secret.describe())
    again = Secret.from_description(json.loads(described))
    assert (again.file, again.environment) == (secret.file, secret.environment)
    assert again.value == ""
    assert "s3cret" not in repr(secret) + described


def test_secret_file_wins_over_the_value_in_use_and_description(tmp_path: Path) -> None:
    """Settings that have both use the file."""
    file = tmp_path / "key"
    file.write_text("new")
    secret = Secret(value="old", environment="NAME", file=str(file))
    assert (secret.read(), secret.describe()) == ("new", {"file": str(file)})


@pytest.mark.parametrize("description", [{}, {"file": "/a", "environment": "B"}, {"vault": "x"}])
def test_description_of_another_shape_is_refused(description: dict[str, str]) -> None:
    """A place that this version does not know is no secret."""
    with pytest.raises(ValueError, match="describes no secret"):
        Secret.from_description(description)


def test_secret_file_is_read_anew_and_its_faults_are_named(tmp_path: Path) -> None:
    """A rotated secret counts at the next use; a missing, empty or binary file is an error."""
    file = tmp_path / "key"
    secret = Secret(file=str(file))
    for content, expected in ((b" one \n", "one"), (b"two", "two")):
        file.write_bytes(content)
        assert secret.read() == expected
    for content, reason in ((b"\n", "empty"), (b"\xff", "not text")):
        file.write_bytes(content)
        with pytest.raises(SecretError, match=reason):
            secret.read()
    file.unlink()
    with pytest.raises(SecretError, match="No such file"):
        secret.read()


@pytest.mark.parametrize(
    ("settings", "digest"),
    [(PLAIN, "4e29198fca4b595e"), (FILED, "052897d3f487a52e"), (BY_VALUE, "c8e46984892ed8c1")],
)
def test_destination_of_settings_is_that_of_earlier_versions(
    settings: KafkaSettings, digest: str
) -> None:
    """Locks and states on disk keep their names through an upgrade."""
    assert settings.destination == digest
    assert facts_digest(settings.public()) == digest


def test_facts_of_earlier_versions_are_read_in_the_present_form() -> None:
    """Texts that described a secret become its place; all other facts stay as they are."""
    assert read_facts(FILED_BEFORE) == FILED.public()
    before = {"endpoint": "http://s:1", "access_key": "me", "secret_key": "environment NAME"}
    assert read_facts(before) == {**before, "secret_key": {"environment": "NAME"}}
    assert read_facts(read_facts(before)) == read_facts(before)


def test_request_of_an_earlier_version_opens_its_store_by_key_file(tmp_path: Path) -> None:
    """The settings behind the text form are those of the structured form."""
    settings = S3Settings(endpoint="http://s:1", access_key="me", secret_key_file="/etc/key")
    before = {**settings.public(), "secret_key": "file /etc/key"}
    leave(tmp_path, store=before)
    (file,) = tmp_path.rglob(REQUEST_FILE)
    assert json.loads(file.read_text())["store"] == before
    store = UploadRequest.read(file.parent).store
    assert store == settings.public()
    assert S3Settings.from_public(store) == settings


def test_spool_folder_of_an_earlier_version_has_the_same_destination(tmp_path: Path) -> None:
    """An agent of this version ships the folders that were there before the upgrade."""
    kafka_writer(tmp_path, FILED).close()
    (file,) = tmp_path.rglob(META_FILE)
    raw = json.loads(file.read_text())
    file.write_text(json.dumps({**raw, "destination": FILED_BEFORE}))
    meta = read_meta(file.parent)
    assert meta.destination == FILED.public()
    assert destination_of(meta) == FILED.destination


def test_agent_state_of_an_earlier_version_names_the_same_store(tmp_path: Path) -> None:
    """A trainer recognises that the running agent has the keys of its store."""
    file = tmp_path / "local.json"
    store = {"endpoint": "http://s:1", "secret_key": "file /k"}
    file.write_text(
        json.dumps({"key": "k", "destination": FILED_BEFORE, "uploads": {"store": store}})
    )
    state = read_state(file)
    assert state is not None
    assert state.destination == FILED.public()
    assert state.uploads["store"] == {**store, "secret_key": {"file": "/k"}}
