"""Addresses and driver errors of the read side become rows or sentences."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from runwire_disk import paths
from runwire_query.connection import connect, find_address, translate_error
from runwire_query.errors import QueryError
from runwire_schemas.connections.clickhouse import ClickHouseAddress

ADDRESS = ClickHouseAddress.parse("http://u:geheim@h:1/d", source="here")


def driver_error(code: int, sentence: str) -> DatabaseError:
    """An error as clickhouse-connect raises it for a server's answer."""
    return DatabaseError(
        f"HTTPDriver for http://h:1 received ClickHouse error code {code}\n Code: {code}. "
        f"DB::Exception: {sentence} (NAME) (version 26.9.2.1 (official build))"
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (driver_error(516, "wrong"), "refused the password of user `u`: correct here"),
        (driver_error(81, "gone"), "no database `d`.*runwire migrate"),
        (driver_error(47, "Unknown identifier `x`."), r"^Unknown identifier `x`\. \(NAME\)$"),
        (driver_error(60, "Unknown table 'v_run'."), "misspelt.*runwire migrate"),
        (driver_error(241, "(total) memory limit exceeded"), "cannot do it now: .total. memory"),
        (driver_error(241, "Query memory limit exceeded"), "RUNWIRE_ENGINE_QUERY_BYTES"),
        (driver_error(202, "queries"), "cannot do it now: queries"),
        (OperationalError("[Errno 111] Connection refused"), "does not answer.*runwire up"),
    ],
)
def test_driver_error_becomes_a_sentence_without_the_password(
    error: Exception, sentence: str
) -> None:
    """A failed connection is explained by the shared table, a failed statement by the server."""
    with pytest.raises(QueryError, match=sentence) as caught:
        raise translate_error(error, ADDRESS)
    assert "geheim" not in str(caught.value)
    assert "version" not in str(caught.value)


def test_foreign_error_stays_as_it_is_when_translated() -> None:
    """Only driver errors are rephrased: our own bugs keep their type."""
    error = KeyError("bug")
    assert translate_error(error, ADDRESS) is error


def test_address_is_the_variable_before_the_connection_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RUNWIRE_CLICKHOUSE_URL wins; a missing or damaged file is an error that says what to do."""
    monkeypatch.delenv("RUNWIRE_CLICKHOUSE_URL", raising=False)
    with pytest.raises(QueryError, match="runwire up"):
        find_address(tmp_path)
    file = paths.connection_file(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(QueryError, match="writes it anew"):
        find_address(tmp_path)
    file.write_text(json.dumps({"reader_url": "http://reader:x@127.0.0.1:5/runwire"}))
    address = find_address(tmp_path)
    assert (address.host, address.port, address.source) == ("127.0.0.1", 5, str(file))
    monkeypatch.setenv("RUNWIRE_CLICKHOUSE_URL", "http://other:8123")
    assert find_address(tmp_path).host == "other"
    monkeypatch.setenv("RUNWIRE_CLICKHOUSE_URL", "other:8123")
    with pytest.raises(QueryError, match="RUNWIRE_CLICKHOUSE_URL must look like"):
        find_address(tmp_path)


def test_https_url_is_spoken_to_in_tls_on_any_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first byte that a server on an unusual port gets is that of a TLS handshake."""
    first: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    with peer:
                        first.append(peer.recv(1))

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"https://u:geheim@127.0.0.1:{server.getsockname()[1]}/d"
        monkeypatch.setenv("RUNWIRE_CLICKHOUSE_URL", url)
        with pytest.raises(QueryError):
            connect(None)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert set(first) == {b"\x16"}
