"""One description of an object store; secrets stay out of what is written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire_schemas.connections.s3 import S3Settings, S3SettingsError, from_environment

WHOLE = {
    "RUNWIRE_S3_ENDPOINT": "http://store:9000",
    "RUNWIRE_S3_BUCKET": "team-a",
    "RUNWIRE_S3_ACCESS_KEY": "trainer",
    "RUNWIRE_S3_SECRET_KEY": "s3cret",
    "RUNWIRE_S3_REGION": "eu-west-1",
}


def test_environment_of_s3_settings_round_trips() -> None:
    """The variables that settings give to another process make the same settings there."""
    settings = from_environment(WHOLE)
    assert settings is not None
    assert settings.environment() == WHOLE
    assert from_environment(settings.environment()) == settings
    assert settings.identity == ("trainer", "s3cret")


def test_settings_are_none_when_no_endpoint_is_named() -> None:
    """All other variables mean nothing then; the bucket has a default."""
    assert from_environment({}) is None
    assert from_environment(WHOLE | {"RUNWIRE_S3_ENDPOINT": " "}) is None
    named = from_environment(WHOLE | {"RUNWIRE_S3_BUCKET": ""})
    assert named is not None
    assert named.bucket == "runwire"


@pytest.mark.parametrize(
    ("endpoint", "address", "url"),
    [
        ("http://store:9000", "store:9000", "http://store:9000"),
        ("https://s3.example.org/", "s3.example.org", "https://s3.example.org"),
        ("store:9000", "store:9000", "https://store:9000"),
        ("[::1]:9000", "[::1]:9000", "https://[::1]:9000"),
    ],
)
def test_endpoint_is_encrypted_unless_it_says_http(endpoint: str, address: str, url: str) -> None:
    """Encrypted unless the endpoint says otherwise."""
    settings = S3Settings(endpoint=endpoint, access_key="a", secret_key="b")
    assert (settings.address, settings.url) == (address, url)
    assert settings.is_secure == url.startswith("https")


@pytest.mark.parametrize(
    "endpoint",
    [
        *("ftp://store", "http://", "http://store:port", "http://store:0", "http://store/path"),
        *("https://store?x=1", "http://[::1", "store:70000"),
    ],
)
def test_malformed_endpoint_is_refused_with_the_accepted_forms(endpoint: str) -> None:
    """Other schemes, paths, queries and impossible ports are refused."""
    with pytest.raises(S3SettingsError, match=r"RUNWIRE_S3_ENDPOINT.*http://host:port"):
        S3Settings(endpoint=endpoint, access_key="a", secret_key="b")


def test_login_in_the_endpoint_is_refused_and_not_repeated() -> None:
    """The error names the variables for the login and never shows it."""
    with pytest.raises(S3SettingsError, match="RUNWIRE_S3_SECRET_KEY_FILE") as caught:
        S3Settings(endpoint="http://me:hidden@store:9000", access_key="a", secret_key="b")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("bucket", ["ab", "Upper", "a_b", "-ab", "ab-", "a" * 64, "../up"])
def test_malformed_bucket_name_is_refused_by_its_variable(bucket: str) -> None:
    """The rules are those of S3 itself."""
    with pytest.raises(S3SettingsError, match="RUNWIRE_S3_BUCKET"):
        S3Settings(endpoint="store", bucket=bucket, access_key="a", secret_key="b")


def test_half_a_login_is_refused_by_the_missing_variable() -> None:
    """The sentence names the variable that is missing."""
    with pytest.raises(S3SettingsError, match="RUNWIRE_S3_ACCESS_KEY"):
        S3Settings(endpoint="store", secret_key="b")
    with pytest.raises(S3SettingsError, match="RUNWIRE_S3_SECRET_KEY_FILE"):
        S3Settings(endpoint="store", access_key="a")


def test_public_facts_of_s3_hold_no_secret_key(tmp_path: Path) -> None:
    """Facts and repr have the place of a secret, and the access key id unless it is in a file."""
    settings = from_environment(WHOLE)
    assert settings is not None
    assert "s3cret" not in repr(settings) + repr(settings.public())
    assert settings.public() == {
        "endpoint": "http://store:9000",
        "bucket": "team-a",
        "access_key": "trainer",
        "secret_key": {"environment": "RUNWIRE_S3_SECRET_KEY"},
        "region": "eu-west-1",
    }
    filed = S3Settings(endpoint="store", access_key_file="/a", secret_key_file="/s")
    assert filed.public()["access_key"] == {"file": "/a"}
    assert filed.public()["secret_key"] == {"file": "/s"}


def test_key_file_wins_over_the_value_and_its_faults_are_named(tmp_path: Path) -> None:
    """The file counts at each use; an empty or missing one is an error with its name."""
    access, secret = tmp_path / "access", tmp_path / "secret"
    access.write_text("trainer\n")
    secret.write_text(" s3cret \n")
    settings = S3Settings(
        endpoint="store", access_key_file=str(access), secret_key_file=str(secret), secret_key="old"
    )
    assert settings.identity == ("trainer", "s3cret")
    secret.write_text("\n")
    with pytest.raises(S3SettingsError, match=r"SECRET_KEY_FILE=.*empty"):
        _ = settings.identity
    secret.unlink()
    with pytest.raises(S3SettingsError, match=r"SECRET_KEY_FILE=.*No such file"):
        _ = settings.identity


def test_tls_files_are_public_facts_and_make_the_same_settings_again() -> None:
    """The agent of another process opens the store with the same certificates."""
    settings = S3Settings(
        endpoint="https://store",
        access_key_file="/a",
        secret_key_file="/s",
        ssl_ca_location="/ca.pem",
        ssl_certificate_location="/client.pem",
        ssl_key_location="/client.key",
    )
    assert settings.public()["ssl_certificate_location"] == "/client.pem"
    assert S3Settings.from_public(settings.public()) == settings
    assert from_environment(settings.environment()) == settings


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"endpoint": "http://store", "ssl_ca_location": "/ca"}, "SSL_CA_LOCATION.*https://"),
        ({"endpoint": "store", "ssl_key_location": "/k"}, "SSL_CERTIFICATE_LOCATION too"),
    ],
)
def test_tls_files_that_cannot_be_used_are_refused(changes: dict[str, str], says: str) -> None:
    """Without encryption, or a key without its certificate."""
    with pytest.raises(S3SettingsError, match=says):
        S3Settings(access_key="a", secret_key="b", **changes)
