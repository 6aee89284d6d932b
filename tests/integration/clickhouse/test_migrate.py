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


def test_migrate_without_records_does_not_run_what_made_older_tables(empty: Client) -> None:
    """Tables that were made through another shard, or restored without the records, are kept."""
    names = migrate.apply(empty)
    empty.command("DROP TABLE schema_migrations SYNC")
    assert migrate.apply(empty) == names
    assert migrate.pending(empty) == []


# Two attempts as an earlier version stored them: (attempt, seconds, metric, first and last step).
STORED = [(1, 0, "loss", 0, 9), (1, 0, "acc", 0, 1), (2, 60, "acc", 1, 2)]


def test_migrate_carries_attempts_of_an_earlier_version_over(
    empty: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers, abandoned points and latest values follow from rows that were there before."""
    known = migrate.migrations()
    monkeypatch.setattr(migrate, "migrations", lambda: known[:5])
    migrate.apply(empty)
    who = "'p' AS project, toUInt128(7) AS run_key, 'r' AS run_id, 0 AS rank"
    for attempt, after_s, metric, first, last in STORED:
        at = f"toDateTime64('2026-01-01 00:00:00', 3, 'UTC') + {after_s}"
        of = f"{who}, {attempt} AS attempt, {attempt} AS writer, {at} AS at"
        point = f"SELECT {of}, cityHash64('{metric}') AS metric_id, '{metric}' AS metric"
        empty.command(
            "INSERT INTO run_events (project, run_key, run_id, rank, attempt, writer, at,"
            f" append_at, attempt_name, seq, event)"
            f" SELECT * EXCEPT at, at, at, 'a{attempt}', 0, 'started' FROM (SELECT {of})"
        )
        empty.command(
            "INSERT INTO metrics (project, run_key, run_id, rank, attempt, writer, at, metric_id,"
            f" metric, step, seq, value) SELECT p.*, number, number, number FROM ({point}) AS p"
            f" CROSS JOIN (SELECT number FROM numbers({first}, {last - first + 1})) AS n"
        )
        empty.command(
            "INSERT INTO metric_rollup (project, run_key, run_id, rank, attempt, metric_id, metric,"
            f" first_step, last_step, last) SELECT * EXCEPT (writer, at), {first}, {last},"
            f" (at, {last}, {last}, {last}) FROM ({point})"
        )
        empty.command(
            "INSERT INTO untidy_writers (project, run_key, run_id, rank, writer)"
            f" SELECT * EXCEPT (at, attempt) FROM (SELECT {of})"
        )
    monkeypatch.setattr(migrate, "migrations", lambda: known)
    assert migrate.apply(empty) == [m.name for m in known[5:]]
    query = "SELECT metric, attempt, step FROM v_metrics WHERE is_abandoned"
    assert empty.query(query).result_rows == [("acc", 1, 1)]
    query = "SELECT metric, value FROM v_latest ORDER BY metric"
    assert empty.query(query).result_rows == [("acc", 2.0), ("loss", 9.0)]
    query = "SELECT attempt, replaced_by FROM v_attempts ORDER BY attempt"
    assert empty.query(query).result_rows == [(1, 2), (2, 0)]


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


def test_views_have_plain_types(feed: Any) -> None:
    """No column has an aggregate's type, which clients may not know."""
    views = [name for (name,) in feed.rows("SHOW TABLES LIKE 'v\\_%'")]
    types = {
        f"{view}.{name}": kind
        for view in views
        for (name, kind, *_) in feed.rows(f"DESCRIBE TABLE {view}")
    }
    assert [name for name, kind in types.items() if "AggregateFunction" in kind] == []
    feed.client.command("CREATE TABLE copy ORDER BY project AS SELECT * FROM v_runs")


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
    found = [one.text for one in migrate.statements(text)]
    assert found == ["SELECT ';' AS `a;b`", "SELECT 'it''s;\\';'"]


def test_guard_in_a_comment_belongs_to_the_next_statement_only() -> None:
    """Other comments guard nothing."""
    text = "-- only while t has c\nDROP TABLE t; -- only a word\nSELECT 1"
    found = [(one.text, one.guard) for one in migrate.statements(text)]
    assert found == [("DROP TABLE t", ("t", "c")), ("SELECT 1", None)]


def test_every_table_has_a_deduplication_window_and_cluster_words() -> None:
    """Each table has a deduplication window, each definition the cluster words; rows replicate."""
    for migration in migrate.migrations():
        for statement in (one.text for one in migrate.statements(migration.text)):
            assert "{on_cluster}" in statement or statement.startswith("INSERT"), statement[:80]
            if statement.startswith("CREATE TABLE"):
                assert "non_replicated_deduplication_window = 10000" in statement
                assert "ENGINE = {replicated}" in statement


def test_migration_of_a_cluster_begins_with_the_database_on_all_its_replicas(empty: Client) -> None:
    """Tables of a replica without the database could not be created; no table is made before."""
    with pytest.raises(Fatal, match="creation of the database failed"):
        migrate.apply(empty, cluster="nowhere")
    assert empty.query("SHOW TABLES").result_rows == []
