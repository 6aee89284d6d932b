"""Drift of a migrated database: dropped and changed things are named, and repaired on request."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clickhouse_connect.driver.client import Client

from runwire import cli
from runwire_consumers.clickhouse import drift, migrate
from runwire_consumers.clickhouse.client import connect
from runwire_consumers.core.errors import Fatal
from support.engine import Server

pytestmark = [pytest.mark.engine, pytest.mark.fault]

EXPECTED = drift.expected(one.text for one in migrate.starting(migrate.migrations()))
VIEWS = [one.name for one in EXPECTED.values() if one.kind == drift.VIEW]
FLOWS = [one.name for one in EXPECTED.values() if one.kind == drift.FLOW]


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    """A client of an empty migrated database."""
    client = connect(clickhouse_url)
    yield client
    client.close()


def sentences(client: Client) -> list[str]:
    return [one.sentence for one in drift.find_drift(client)]


def test_migrated_database_has_no_drift(client: Client) -> None:
    """Every table, column, view and materialized view of the migrations is recognised."""
    assert sentences(client) == []
    found = client.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() "
        "AND name != 'schema_migrations'"
    )
    assert {name for (name,) in found.result_rows} == set(EXPECTED)


def test_every_dropped_view_is_made_again(client: Client) -> None:
    """Views that select from others are made after these."""
    for name in VIEWS:
        client.command(f"DROP VIEW {name}")
    found = drift.find_drift(client)
    assert {one.sentence for one in found} == {f"view {name} is missing" for name in VIEWS}
    drift.repair(client, found)
    assert sentences(client) == []
    for name in VIEWS:
        client.query(f"SELECT * FROM {name} LIMIT 1")


@pytest.mark.parametrize("name", FLOWS)
def test_dropped_materialized_view_is_made_again(client: Client, name: str) -> None:
    """Its definition is the newest one of the migrations."""
    client.command(f"DROP VIEW {name}")
    found = drift.find_drift(client)
    assert [one.sentence for one in found] == [f"materialized view {name} is missing"]
    drift.repair(client, found)
    assert sentences(client) == []


def test_rows_that_missed_their_materialized_view_reach_its_target(client: Client) -> None:
    """What came while it was away is filled in; what was there before is not counted twice."""
    insert = (
        "INSERT INTO run_events (project, run_id, rank, attempt, writer, seq, resumed_from_step) "
        "VALUES ('p', 'r', 0, 1, 7, {0}, {0})"
    )
    total = "SELECT count(), max(resumed_from_step) FROM attempts FINAL"
    client.command(insert.format(1))
    client.command("DROP VIEW attempts_of_events_mv")
    client.command(insert.format(5))
    assert client.query(total).result_rows == [(1, 1)]
    drift.repair(client, drift.find_drift(client))
    assert client.query(total).result_rows == [(1, 5)]
    client.command(insert.format(6))
    assert client.query(total).result_rows == [(1, 6)]


def test_dropped_column_is_added_again(client: Client) -> None:
    """With its type and default; rows stay."""
    client.command("ALTER TABLE logs DROP COLUMN level", settings={"mutations_sync": 1})
    found = drift.find_drift(client)
    assert "column logs.level is missing" in [one.sentence for one in found]
    drift.repair(client, found)
    assert sentences(client) == []


def test_changed_type_is_named_and_set_back(client: Client) -> None:
    """The sentence has both types."""
    client.command("ALTER TABLE logs MODIFY COLUMN level String", settings={"mutations_sync": 1})
    (found,) = drift.find_drift(client)
    assert found.sentence == "column logs.level is String, ours is LowCardinality(String)"
    assert not found.is_missing
    drift.repair(client, [found])
    assert sentences(client) == []


def test_changed_views_are_recognised_by_what_they_select(client: Client) -> None:
    """A view or materialized view that somebody replaced is named, and ours comes back."""
    client.command("CREATE OR REPLACE VIEW v_runs AS SELECT 1 AS run_id")
    client.command(
        "ALTER TABLE heartbeat_last_mv MODIFY QUERY SELECT * FROM heartbeats WHERE rank = 0"
    )
    found = drift.find_drift(client)
    assert {one.name for one in found} == {"v_runs", "heartbeat_last_mv"}
    assert not any(one.is_missing for one in found)
    drift.repair(client, found)
    assert sentences(client) == []


def test_dropped_table_is_made_again_empty(client: Client) -> None:
    """Everything else stays usable; the sentence says that the table was gone."""
    client.command("DROP TABLE params SYNC")
    found = drift.find_drift(client)
    assert "table params is missing" in [one.sentence for one in found]
    drift.repair(client, found)
    assert client.query("SELECT count() FROM params").result_rows == [(0,)]


def test_database_of_a_newer_version_is_not_compared(client: Client) -> None:
    """An old runwire does not know what a newer one made."""
    client.command("DROP VIEW v_logs")
    client.insert("schema_migrations", [[9999, "9999_later", "x"]],
                  column_names=["version", "name", "checksum"])  # fmt: skip
    assert sentences(client) == []


def test_database_is_compared_only_for_a_user_who_sees_all_of_it(
    client: Client, clickhouse_server: Server
) -> None:
    """What a user may not see would look as if it were missing."""
    if clickhouse_server.reader_url is None:
        pytest.skip("this server was not started by us: it has no reader user")
    connect(clickhouse_server.url, create=True).close()
    reader = connect(clickhouse_server.reader_url)
    assert drift.may_compare(client)
    assert drift.may_compare(reader)
    reader.database = client.database
    assert not drift.may_compare(reader)
    assert drift.find_drift(reader) == []
    reader.close()


def test_repair_that_the_server_refuses_is_one_sentence(client: Client) -> None:
    """A view over a missing source cannot be made; the error names it."""
    impossible = drift.Drift(
        kind="view",
        name="v_x",
        found="is missing",
        is_missing=True,
        repair=["CREATE VIEW {database}.v_x {on_cluster} AS SELECT * FROM {database}.nothing"],
    )
    with pytest.raises(Fatal, match="repair of view v_x failed"):
        drift.repair(client, [impossible])


def test_migrate_repairs_what_is_missing_and_fixes_what_differs(
    client: Client, clickhouse_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain `migrate` makes what is gone and names what differs; `--fix` sets that too."""
    client.command("DROP VIEW v_logs")
    client.command("ALTER TABLE logs MODIFY COLUMN level String", settings={"mutations_sync": 1})
    assert cli.main(["migrate", "--url", clickhouse_url]) == 0
    printed = capsys.readouterr()
    assert "view v_logs is missing: repaired" in printed.out
    assert "column logs.level is String, ours is LowCardinality(String): --fix" in printed.err
    assert cli.main(["migrate", "--url", clickhouse_url, "--fix"]) == 0
    assert "column logs.level is String" in capsys.readouterr().out
    assert sentences(client) == []
    assert cli.main(["migrate", "--url", clickhouse_url]) == 0
    assert "is up to date" in capsys.readouterr().err
