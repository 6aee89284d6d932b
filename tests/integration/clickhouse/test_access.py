"""Sentences for what people get wrong in the url, and what the reader may do."""

from __future__ import annotations

from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from runwire_consumers.clickhouse import migrate
from runwire_consumers.clickhouse.client import connect
from runwire_consumers.core.errors import Fatal
from support.engine import Server

pytestmark = pytest.mark.engine


def test_a_wrong_password_is_named(clickhouse_server: Server) -> None:
    """Fatal: the sentence names the user and the variable, not the password."""
    user, place = clickhouse_server.url.removeprefix("http://").split("@")
    wrong = f"http://{user.split(':')[0]}:nonsense@{place}"
    with pytest.raises(
        Fatal, match=r"refused the password of user `\w+`.*RUNWIRE_CLICKHOUSE_URL"
    ) as caught:
        connect(wrong)
    assert "nonsense" not in str(caught.value)


def test_a_wrong_database_is_named(clickhouse_server: Server) -> None:
    """Fatal: the sentence names the database and the command that makes one."""
    wrong = f"{clickhouse_server.url.rsplit('/', 1)[0]}/nowhere"
    with pytest.raises(Fatal, match=r"no database `nowhere`.*runwire migrate"):
        connect(wrong)


@pytest.mark.parametrize("url", ["localhost:8123", "clickhouse://h/db", "http://", ""])
def test_an_url_of_another_shape_is_named(url: str) -> None:
    with pytest.raises(Fatal, match="must look like http://user:password@host:8123/database"):
        connect(url)


def test_the_reader_reads_views_and_nothing_else(clickhouse_server: Server) -> None:
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


def test_names_cannot_break_out_of_a_statement(feed: Any) -> None:
    """Run ids with quotes are data in deletes too."""
    from runwire_consumers.clickhouse.tombstones import delete_run
    from support.builders import run_event

    evil = "x'); DROP TABLE metrics; --"
    feed.write(run_event(run_id=evil), run_event())
    assert delete_run(feed.client, "tests", evil)
    assert feed.rows("SELECT run_id FROM v_runs") == [("run-1",)]
