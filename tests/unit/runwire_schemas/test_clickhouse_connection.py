"""One parser for ClickHouse URLs, and one table of its error codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire_schemas.connections.clickhouse import (
    ClickHouseAddress,
    ClickHouseSettings,
    ClickHouseSettingsError,
    error_sentence,
    explain_error,
    trouble_of,
)
from runwire_schemas.connections.clickhouse_troubles import (
    ClickHouseTrouble,
    code_names,
    troubles_by_code,
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


@pytest.mark.parametrize("host", ["h", "h.example:99", "[::1]:99", "h:99/d", "h/d?ca_cert=/a@b"])
@pytest.mark.parametrize(
    "password",
    ["a/b", "1/2", "a#b", "a?b", "a@b", "a%b", "@/#?@%", "a:b", "[a", "12/34@5", "p@ss?x/y", "%zz"],
)
def test_password_may_hold_every_character_of_urls(password: str, host: str) -> None:
    """Nobody has to escape it, and no message shows a piece of it."""
    address = ClickHouseAddress.parse(f"http://me:{password}@{host}")
    plain = ClickHouseAddress.parse(f"http://{host}")
    assert (address.username, address.password) == ("me", password)
    assert (address.host, address.port, address.database, address.options, address.shown) == (
        plain.host, plain.port, plain.database, plain.options, plain.shown,
    )  # fmt: skip


@pytest.mark.parametrize(
    "url", ["http://me:ge/heim@", "http://me:gehe@im@h:x/d", "http://a/b@c/d/e"]
)
def test_url_with_a_login_and_no_host_is_refused_without_its_password(url: str) -> None:
    """An @ without a host behind it is a mistake in the URL, not a part of the database's name."""
    with pytest.raises(ClickHouseSettingsError) as caught:
        ClickHouseAddress.parse(url, source="here")
    assert "geh" not in str(caught.value)
    assert caught.value.__cause__ is None


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
        ("received ClickHouse error code 164", ClickHouseTrouble.SETTING),
        ("Code: 81.", ClickHouseTrouble.DATABASE),
        ("Code: 60.", ClickHouseTrouble.SCHEMA),
        ("Code: 243.", ClickHouseTrouble.DISK_FULL),
        ("Code: 497.", ClickHouseTrouble.RIGHTS),
        ("Code: 241.", ClickHouseTrouble.TOO_LARGE),
        ("Code: 201.", ClickHouseTrouble.PASSING),
        ("Code: 225.", ClickHouseTrouble.PASSING),
        ("Code: 745.", ClickHouseTrouble.PASSING),
        ("Code: 469.", ClickHouseTrouble.ROWS),
        ("Code: 987654.", ClickHouseTrouble.UNKNOWN),
        ("Code: 62.", ClickHouseTrouble.REFUSED),
        ("Connection refused", ClickHouseTrouble.UNREACHABLE),
        ("Setting async_insert is readonly", ClickHouseTrouble.SETTING),
        (
            "HTTP driver received HTTP status 413, server response: code 7",
            ClickHouseTrouble.TOO_LARGE,
        ),
        ("HTTP driver received HTTP status 401", ClickHouseTrouble.PASSWORD),
        ("HTTP driver received HTTP status 403", ClickHouseTrouble.RIGHTS),
        ("HTTP driver received HTTP status 502", ClickHouseTrouble.PASSING),
        ("HTTP driver received HTTP status 404", ClickHouseTrouble.UNKNOWN),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", ClickHouseTrouble.UNTRUSTED),
        ("a driver's new sentence", ClickHouseTrouble.UNKNOWN),
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


def test_page_of_a_proxy_is_reported_as_its_status_alone() -> None:
    """The sentence has the status and no HTML."""
    page = "HTTP driver received HTTP status 413, server response: <html><h1>Too Large</h1>"
    sentence = explain_error(RuntimeError(page), ClickHouseAddress.parse("http://me@h:99/d"))
    assert "HTTP status 413" in sentence
    assert "<" not in sentence


@pytest.mark.parametrize("text", ["Code: 987654. DB::Exception: new", "a driver's new sentence"])
def test_unknown_error_is_reported_in_its_own_words(text: str) -> None:
    """Neither a code of a newer server nor a driver's new error ends as "does not answer"."""
    address = ClickHouseAddress.parse("http://me:geheim@h:99/d")
    sentence = explain_error(RuntimeError(text), address)
    assert error_sentence(text) in sentence
    assert "answer" not in sentence


ODD = "a/b#c?d@e%f:g&h 12"


@pytest.mark.parametrize(
    ("url", "username"),
    [
        ("http://me:old@h:99/d", "me"),
        ("http://me@h:99/d", "me"),
        ("http://h:99/d?ca_cert=/ca.pem", "default"),
    ],
)
def test_password_of_the_file_wins_and_may_hold_any_character(
    tmp_path: Path, url: str, username: str
) -> None:
    """The file is read at each call; everything else of the URL stays."""
    file = tmp_path / "password"
    environ = {"RUNWIRE_CLICKHOUSE_URL": url, "RUNWIRE_CLICKHOUSE_PASSWORD_FILE": str(file)}
    for password in ("first", ODD):
        file.write_text(password + "\n")
        address = ClickHouseAddress.parse(ClickHouseSettings.from_environment(environ).url or "")
        assert (address.username, address.password) == (username, password)
        assert (address.host, address.port, address.database) == ("h", 99, "d")
    file.unlink()
    with pytest.raises(ClickHouseSettingsError, match="RUNWIRE_CLICKHOUSE_PASSWORD_FILE"):
        ClickHouseSettings.from_environment(environ)


@pytest.mark.parametrize(
    ("login", "options", "mode"),
    [
        ("me:pw@", "client_cert=/c&client_cert_key=/k", "strict"),
        ("me@", "client_cert=/c", None),
        ("me:pw@", "ca_cert=/ca", None),
        ("me:pw@", "client_cert=/c&tls_mode=proxy", None),
    ],
)
def test_password_is_sent_beside_a_client_certificate(
    login: str, options: str, mode: str | None
) -> None:
    """The driver would leave it out; a mode in the URL, or no password, changes nothing."""
    address = ClickHouseAddress.parse(f"https://{login}h/d?{options}")
    assert address.client_arguments().get("tls_mode") == mode


def test_table_of_codes_has_each_code_once() -> None:
    """No code is sorted twice: the two views of the table agree on their number."""
    assert len(code_names()) == len(troubles_by_code())
    assert len(set(code_names().values())) == len(code_names())


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
