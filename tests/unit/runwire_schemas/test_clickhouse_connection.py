"""One parser for ClickHouse URLs, and one table of its error codes."""

from __future__ import annotations

import pytest

from runwire_schemas.connections.clickhouse import (
    ClickHouseAddress,
    ClickHouseSettings,
    ClickHouseSettingsError,
    ClickHouseTrouble,
    error_sentence,
    explain_error,
    trouble_of,
)


@pytest.mark.parametrize(
    ("url", "arguments", "database"),
    [
        ("http://h", ("http", "h", 8123, "default", ""), "runwire"),
        ("https://u@h/d", ("https", "h", 8443, "u", ""), "d"),
        ("http://u:p%40ss@h:99/d/", ("http", "h", 99, "u", "p@ss"), "d"),
        ("http://[::1]:99/", ("http", "::1", 99, "default", ""), "runwire"),
    ],
)
def test_address_fills_in_user_port_and_database(
    url: str, arguments: tuple[object, ...], database: str
) -> None:
    """Escapes in user and password are decoded; the port follows from the scheme."""
    address = ClickHouseAddress.parse(url)
    assert tuple(address.client_arguments().values()) == arguments
    assert address.database == database


def test_address_hands_further_arguments_of_the_url_to_the_driver() -> None:
    """A query string, for example a certificate authority, is not lost."""
    arguments = ClickHouseAddress.parse("https://u:x@h/d?ca_cert=/ca.pem").client_arguments()
    assert arguments["dsn"] == "https://?ca_cert=/ca.pem"


@pytest.mark.parametrize(
    "url", ["h:8123", "clickhouse://u:geheim@h/d", "http://", "", "http://h:x"]
)
def test_address_of_another_shape_is_refused_without_its_password(url: str) -> None:
    """The error shows the accepted form and the source, never the login."""
    with pytest.raises(ClickHouseSettingsError, match="here must look like http://user:") as caught:
        ClickHouseAddress.parse(url, source="here")
    assert "geheim" not in str(caught.value)


def test_address_shows_neither_password_nor_options() -> None:
    """`shown` and repr can be logged."""
    address = ClickHouseAddress.parse("http://me:geheim@h:99/d?ca_cert=secret")
    assert address.shown == "http://h:99/d"
    assert "geheim" not in repr(address) + repr(ClickHouseSettings(url="http://me:geheim@h"))


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("Code: 516. DB::Exception: no", ClickHouseTrouble.PASSWORD),
        ("received ClickHouse error code 164", ClickHouseTrouble.RIGHTS),
        ("Code: 81.", ClickHouseTrouble.DATABASE),
        ("Code: 60.", ClickHouseTrouble.SCHEMA),
        ("Code: 243.", ClickHouseTrouble.DISK_FULL),
        ("Code: 241.", ClickHouseTrouble.PASSING),
        ("Code: 62.", ClickHouseTrouble.REFUSED),
        ("Connection refused", ClickHouseTrouble.UNREACHABLE),
    ],
)
def test_error_code_means_one_trouble_with_a_sentence(
    text: str, trouble: ClickHouseTrouble
) -> None:
    """Workers and commands read the same table; no sentence holds the password."""
    error = RuntimeError(text)
    address = ClickHouseAddress.parse("http://me:geheim@h:99/d")
    assert trouble_of(error) is trouble
    assert "geheim" not in explain_error(error, address)
    assert "{" not in explain_error(error, address)


def test_error_sentence_loses_the_decoration_of_driver_and_server() -> None:
    """Only the sentence and the name of a ClickHouse error are left."""
    noisy = (
        "HTTPDriver for http://127.0.0.1:1 received ClickHouse error code 47\n Code: 47. "
        "DB::Exception: Unknown expression identifier `x` in scope SELECT x. "
        "(UNKNOWN_IDENTIFIER) (version 26.9.2.1 (official build))"
    )
    assert error_sentence(noisy) == (
        "Unknown expression identifier `x` in scope SELECT x. (UNKNOWN_IDENTIFIER)"
    )
