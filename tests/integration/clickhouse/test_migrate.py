"""ClickHouse migrations: from nothing, repeated, and guarded against edited or newer databases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse import migrate
from runwire_consumers.clickhouse.client import connect
from runwire_consumers.core.errors import Fatal
from support.engine import Server, drop_database

pytestmark = pytest.mark.engine

VIEWS = {
    "v_runs": "run_id project name group job_type status status_reason attempt world_size tags "
    "started_at finished_at last_step last_progress_at last_seen_at parent_run_id",
    "v_params": "run_id project key value",
    "v_metrics": "run_id project metric rank attempt step seq at value is_abandoned",
    "v_series": "run_id project metric rank step value at",
    "v_latest": "run_id project metric rank step at value min max",
    "v_completeness": "run_id project rank accepted stored dead_lettered dropped pending",
    "v_logs": "run_id project rank at step stream level name text",
    "v_dead_letters": "run_id project id stream partition offset last_offset at reason points",
}


@pytest.fixture
def empty(clickhouse_server: Server) -> Iterator[Client]:
    url = f"{clickhouse_server.url.rsplit('/', 1)[0]}/rw_test_migrate"
    client = connect(url, create=True)
    yield client
    client.close()
    drop_database(clickhouse_server, url)


def test_migrate_applies_every_file_once_in_order(empty: Client) -> None:
    """The first run applies every file in order, the second none."""
    names = [m.name for m in migrate.migrations()]
    assert migrate.pending(empty) == names
    assert migrate.apply(empty) == names
    assert migrate.pending(empty) == []
    assert migrate.apply(empty) == []


@pytest.mark.parametrize("done", range(len(migrate.migrations())))
def test_migrate_completes_a_migration_whose_record_was_lost(empty: Client, done: int) -> None:
    """A migration whose statements ran but whose record was lost runs again without harm."""
    migrate.apply(empty)
    version = migrate.migrations()[done].version
    empty.command(f"ALTER TABLE schema_migrations DELETE WHERE version = {version}",
                  settings={"mutations_sync": 1})  # fmt: skip
    assert migrate.apply(empty) == [migrate.migrations()[done].name]


@pytest.mark.parametrize(("view", "columns"), VIEWS.items())
def test_views_have_the_columns_of_the_contract(feed: Any, view: str, columns: str) -> None:
    """The columns that dashboards of users name exist in the views."""
    found = {name for (name, *_) in feed.rows(f"DESCRIBE TABLE {view}")}
    assert set(columns.split()) <= found


def test_view_columns_have_the_types_of_the_contract(feed: Any) -> None:
    """Tags are a map, times have milliseconds, the attempt is a number."""
    types = {
        (view, name): kind
        for view in VIEWS
        for (name, kind, *_) in feed.rows(f"DESCRIBE TABLE {view}")
    }
    assert types["v_runs", "tags"] == "Map(String, String)"
    assert types["v_metrics", "at"].startswith("DateTime64(3")
    assert types["v_metrics", "value"] == "Float64"
    assert types["v_runs", "attempt"] == types["v_metrics", "attempt"] == "Int32"


def test_migrate_refuses_an_edited_migration(empty: Client) -> None:
    """The checksum of an applied migration must be that of its file."""
    migrate.apply(empty)
    empty.insert("schema_migrations", [[1, "0001_points", "edited"]],
                 column_names=["version", "name", "checksum"])  # fmt: skip
    with pytest.raises(Fatal, match="never edit a released migration"):
        migrate.apply(empty)


def test_migrate_refuses_a_database_of_a_newer_version(empty: Client) -> None:
    """An old runwire does not change a database of a newer one."""
    migrate.apply(empty)
    empty.insert("schema_migrations", [[9999, "9999_later", "x"]],
                 column_names=["version", "name", "checksum"])  # fmt: skip
    with pytest.raises(Fatal, match="upgrade runwire"):
        migrate.apply(empty)


def test_statement_splitter_ignores_semicolons_in_strings_and_comments() -> None:
    """Semicolons in strings, quoted names and comments do not end a statement."""
    text = "SELECT ';' AS `a;b`; -- one; two\nSELECT 'it''s;\\';' /* ; */ ;\n-- end"
    assert migrate.statements(text) == ["SELECT ';' AS `a;b`", "SELECT 'it''s;\\';'"]


def test_every_table_has_a_deduplication_window_and_cluster_words() -> None:
    """Each table of each migration has a deduplication window and both cluster words."""
    for migration in migrate.migrations():
        for statement in migrate.statements(migration.text):
            assert "{on_cluster}" in statement, statement[:80]
            if statement.startswith("CREATE TABLE"):
                assert "non_replicated_deduplication_window = 10000" in statement
                assert "ENGINE = {replicated}" in statement
