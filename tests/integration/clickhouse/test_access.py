"""Errors for wrong ClickHouse URLs, and the rights of the reader."""

from __future__ import annotations

from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from runwire_consumers.clickhouse import migrate
from runwire_consumers.clickhouse.client import connect
from runwire_consumers.core.errors import Fatal
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
    from runwire_consumers.clickhouse.tombstones import delete_run
    from support.builders import run_event

    evil = "x'); DROP TABLE metrics; --"
    feed.write(run_event(run_id=evil), run_event())
    assert delete_run(feed.client, "tests", evil)
    assert feed.rows("SELECT run_id FROM v_runs") == [("run-1",)]
