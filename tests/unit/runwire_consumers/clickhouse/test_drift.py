"""Reading of migrations: what tables, columns and views they make, in an order that can be run."""

from __future__ import annotations

import pytest

from runwire_consumers.clickhouse import migrate
from runwire_consumers.clickhouse.drift import FLOW, TABLE, VIEW, expected

TEXT = """
CREATE TABLE IF NOT EXISTS {database}.t {on_cluster}
(
    a LowCardinality(String), -- why, and (why) not
    `b` Tuple(x Int64, y DateTime64(3, 'UTC')) DEFAULT (1, now()) CODEC(ZSTD(1)),
    INDEX by_a a TYPE bloom_filter GRANULARITY 1
) ENGINE = {replicated}MergeTree ORDER BY a;
CREATE OR REPLACE VIEW {database}.first {on_cluster} AS SELECT a FROM {database}.second;
CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.flow {on_cluster}
TO {database}.t AS SELECT 1 AS a;
CREATE OR REPLACE VIEW {database}.gone {on_cluster} AS SELECT 1;
"""
LATER = """
ALTER TABLE {database}.t {on_cluster}
    ADD COLUMN IF NOT EXISTS c Nullable(Float64) DEFAULT if(a = 'x', 1, 2),
    MODIFY COLUMN a String;
ALTER TABLE {database}.flow {on_cluster} MODIFY QUERY SELECT 2 AS a;
INSERT INTO {database}.t (a) SELECT 'x';
CREATE OR REPLACE VIEW {database}.second {on_cluster} AS SELECT a FROM {database}.t;
DROP VIEW IF EXISTS {database}.gone {on_cluster};
"""


def test_last_definition_of_everything_is_expected() -> None:
    """Columns follow every ALTER, views the last definition; dropped ones are not expected."""
    found = expected([TEXT, LATER])
    assert {one.name: one.kind for one in found.values()} == {
        "t": TABLE,
        "flow": FLOW,
        "first": VIEW,
        "second": VIEW,
    }
    types = {column.name: column.type for column in found["t"].columns.values()}
    assert types == {
        "a": "String",
        "b": "Tuple(x Int64, y DateTime64(3, 'UTC'))",
        "c": "Nullable(Float64)",
    }
    assert found["t"].columns["c"].definition.endswith("DEFAULT if(a = 'x', 1, 2)")
    assert (found["flow"].query, found["flow"].target) == ("SELECT 2 AS a", "t")
    assert "SELECT 2 AS a" in found["flow"].statements[0]


def test_views_come_after_what_they_select_from() -> None:
    """A later migration may define what an earlier view selects from."""
    names = list(expected([TEXT, LATER]))
    assert names.index("t") < names.index("second") < names.index("first")


@pytest.mark.parametrize(
    "statement", ["RENAME TABLE a TO b", "ALTER TABLE {database}.t {on_cluster} REMOVE x"]
)
def test_statement_that_cannot_be_read_is_an_error(statement: str) -> None:
    """A new kind of statement in a migration fails here, and not at a user."""
    with pytest.raises(ValueError, match="cannot read"):
        expected([TEXT, statement])


def test_every_migration_can_be_read() -> None:
    """All statements of this version are understood."""
    assert len(expected(one.text for one in migrate.migrations())) > 30
