"""Errors for wrong ClickHouse URLs, and the rights of the reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from runwire_consumers.clickhouse import migrate
from runwire_consumers.clickhouse.client import connect
from runwire_consumers.clickhouse.sink import ClickHouseSink
from runwire_consumers.compose.workers import LazySink, configured_url
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.errors import Fatal, Retryable
from runwire_schemas.connections.clickhouse_troubles import code_names
from support.builders import batch_of, metric_record
from support.engine import Server

pytestmark = pytest.mark.engine


def test_wrong_password_is_fatal_and_names_user_and_variable(clickhouse_server: Server) -> None:
    """The sentence names the user and the variable, not the password."""
    user, place = clickhouse_server.url.removeprefix("http://").split("@")
    wrong = f"http://{user.split(':')[0]}:nonsense@{place}"
    with pytest.raises(
        Fatal, match=r"refused the password of user `\w+`.*RUNWIRE_CLICKHOUSE_URL"
    ) as caught:
        connect(wrong)
    assert "nonsense" not in str(caught.value)


def test_wrong_database_is_fatal_and_names_the_command(clickhouse_server: Server) -> None:
    """The sentence names the database and the command that creates one."""
    wrong = f"{clickhouse_server.url.rsplit('/', 1)[0]}/nowhere"
    with pytest.raises(Fatal, match=r"no database `nowhere`.*runwire migrate"):
        connect(wrong)


def test_every_code_of_the_server_is_sorted_in_the_table(clickhouse_server: Server) -> None:
    """The table knows each code of this server by the server's name, OK aside."""
    client = connect(clickhouse_server.url, create=True)
    answer = client.query(
        "SELECT toInt32(number) AS code, errorCodeToName(code) AS name FROM numbers(1, 10000) "
        "WHERE name != ''"
    )
    client.close()
    known = code_names()
    assert {code: name for code, name in answer.result_rows if known.get(code) != name} == {}


def test_user_that_may_not_choose_settings_is_fatal_and_named(clickhouse_server: Server) -> None:
    """`readonly=1` is reported as a setting to lift, not as a server that does not answer."""
    client = connect(clickhouse_server.url, create=True)
    migrate.apply(client)
    client.close()

    def open_readonly(url: str) -> Client:
        client = connect(url)
        client.set_client_setting("readonly", 1)
        return client

    sink = ClickHouseSink(clickhouse_server.url, open_client=open_readonly)
    with pytest.raises(Fatal, match=r"does not let user `\w+` choose a setting.*readonly=1"):
        sink.write(batch_of([metric_record(0, calls=1)], "w:1"))
    sink.close(Deadline(1))


def test_password_renewed_in_its_file_is_taken_without_a_restart(
    clickhouse_url: str, tmp_path: Path
) -> None:
    """A refused login of a file is retried with a sentence, and works once the file is right."""
    parts = urlsplit(clickhouse_url)
    file = tmp_path / "password"
    file.write_text("outdated")
    environ = {
        "RUNWIRE_CLICKHOUSE_URL": clickhouse_url.replace(f":{parts.password}@", "@"),
        "RUNWIRE_CLICKHOUSE_PASSWORD_FILE": str(file),
    }
    sink = LazySink(lambda: configured_url(environ) or "", ClickHouseSink, is_login_renewable=True)
    batch = batch_of([metric_record(0, calls=1)], "w:1")
    with pytest.raises(Retryable, match=r"refused the password.*RUNWIRE_CLICKHOUSE_PASSWORD_FILE"):
        sink.write(batch)
    file.unlink()  # as a secret is while it is replaced
    with pytest.raises(Retryable, match="RUNWIRE_CLICKHOUSE_PASSWORD_FILE"):
        sink.write(batch)
    file.write_text(f"{parts.password}\n")
    sink.write(batch)
    sink.close(Deadline(1))


def test_option_that_the_driver_lacks_is_fatal_and_named(clickhouse_server: Server) -> None:
    """A misspelt option of the URL is a sentence with its name, not a traceback."""
    with pytest.raises(Fatal, match=r"RUNWIRE_CLICKHOUSE_URL has an option.*ca_cret"):
        connect(f"{clickhouse_server.url}?ca_cret=/ca.pem")


@pytest.mark.parametrize("url", ["localhost:8123", "clickhouse://h/db", "http://", ""])
def test_malformed_url_is_refused_and_named(url: str) -> None:
    """A URL without scheme, host or database is refused with the form it must have."""
    with pytest.raises(Fatal, match="must look like http://user:password@host:8123/database"):
        connect(url)


def test_reader_may_select_views_and_nothing_else(clickhouse_server: Server) -> None:
    """The reader selects every view; it can neither write, drop nor read other databases."""
    if clickhouse_server.reader_url is None:
        pytest.skip("this server was not started by us: it has no reader user")
    writer = connect(clickhouse_server.url, create=True)
    migrate.apply(writer)
    reader = connect(clickhouse_server.reader_url)
    views = [n for (n,) in writer.query("SHOW TABLES LIKE 'v\\_%'").result_rows]
    assert len(views) >= 8
    for view in views:
        reader.query(f"SELECT * FROM {view}")
    writer.command("CREATE DATABASE IF NOT EXISTS private")
    writer.command("CREATE OR REPLACE TABLE private.t (x UInt8) ENGINE = MergeTree ORDER BY x")
    for refused in (
        "INSERT INTO deleted_runs (project) VALUES ('p')",
        "DROP TABLE metrics",
        "DELETE FROM metrics WHERE 1",
        "SELECT * FROM private.t",
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'x String')",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    ):
        with pytest.raises(DatabaseError, match=r"ACCESS_DENIED|READONLY|privileges"):
            reader.command(refused)
    writer.command("DROP DATABASE private SYNC")
    for client in (reader, writer):
        client.close()


def test_quotes_in_run_ids_stay_data_in_statements(feed: Any) -> None:
    """Run ids with quotes are data, also in deletes."""
    from runwire_consumers.clickhouse.tombstones import hide_run
    from runwire_consumers.housekeeping.purge import wait_until_purged
    from support.builders import run_event

    evil = "x'); DROP TABLE metrics; -- %(run_id)s \\"
    feed.write(run_event(run_id=evil), run_event())
    assert hide_run(feed.client, "tests", evil).run_id == evil
    wait_until_purged(feed.client, [("tests", evil)], lambda *_: None)
    assert feed.rows("SELECT run_id FROM v_runs") == [("run-1",)]
