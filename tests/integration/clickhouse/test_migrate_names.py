"""Tables with names in their keys, and the rows that an older version stored by hashes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from runwire_consumers.clickhouse import migrate
from runwire_consumers.clickhouse.client import connect
from runwire_consumers.core.errors import Fatal
from support.engine import Server, drop_database

pytestmark = pytest.mark.engine

KNOWN = migrate.migrations()
OLD = [one for one in KNOWN if one not in migrate.starting(KNOWN)]
# A run that was restarted, one of the same id in another project, and one that is deleted, with two
# ranks each, and every row twice, as replays under other tokens leave them.
ROWS = """
SELECT
    arrayJoin([('p', 'r', 1, 1), ('p', 'r', 1, 2), ('q', 'r', 2, 1), ('p', 'gone', 3, 1)]) AS who,
    who.1 AS project, who.2 AS run_id, toUInt128(who.3) AS run_key, toUInt64(who.4) AS attempt,
    arrayJoin([0, 1]) AS rank, attempt * 10 + rank + who.3 * 100 AS writer,
    arrayJoin([1, 2]) AS copy, arrayJoin(range(20)) AS n, n AS seq,
    toDateTime64('2026-01-01 00:00:00', 3, 'UTC') + attempt * 100 + n AS at, at + 1 AS append_at
"""
RUN = "project, run_key, run_id"
WHO = f"{RUN}, rank, attempt, writer"
EVENT = f"{WHO}, seq, at, append_at"
SERIES = "arrayJoin(['loss', 'acc']) AS metric, cityHash64(metric) AS metric_id"
# Of each table the columns, those of ROWS or expressions over them, and which rows it gets.
STORED = {
    "run_events": f"""
        {EVENT}, concat('a', toString(attempt)) AS attempt_name, toString(writer) AS writer_name,
        multiIf(n = 0, 'started', n = 19, 'finished', 'updated') AS event,
        if(n = 19, 'finished', NULL) AS status, if(n = 0, concat('run ', run_id), NULL) AS name,
        true AS has_tags, map('n', toString(n)) AS tags, 2 AS world_size, 'a1' AS first_attempt,
        if(n = 19, 80, NULL) AS accepted, map('quota', n) AS dropped, attempt AS attempt_number,
        if(attempt = 2 AND n = 0, 9, NULL) AS resumed_from_step WHERE n IN (0, 7, 19)""",
    "metrics": f"{WHO}, {SERIES}, n + (attempt - 1) * 10 AS step, seq, at, n / 8 AS value",
    "metric_rollup": f"""
        {RUN}, rank, attempt, {SERIES}, (attempt - 1) * 10 AS first_step,
        first_step + 19 AS last_step, (append_at, at, seq, at, last_step, n / 8) AS newest,
        0. AS min, n / 8 AS max WHERE n = 19""",
    "batches": f"""
        {WHO}, n AS batch_seq, 2 AS points, n AS first_seq, n AS last_seq, n AS first_step,
        n AS last_step, at AS first_at, at AS last_at, n = 3 AS untidy, append_at""",
    "params": f"{EVENT}, concat('key', toString(n % 3)) AS key, toString(n) AS value",
    "heartbeats": f"""
        {EVENT}, toString(writer) AS writer_name, n AS last_step, at AS last_progress_at,
        'train' AS phase, n * 4 AS accepted, map('quota', n) AS dropped, 'h' AS host, 7 AS pid""",
    "logs": f"""
        {EVENT}, n AS step, if(n % 2, 'stdout', 'histogram') AS stream, 'w' AS name,
        if(n % 2, 'line', '{{"edges": [0, 1, 2], "counts": [3, 4]}}') AS text""",
    "artifacts": f"""
        {EVENT}, concat(run_id, toString(rank)) AS artifact, 'model' AS name, 'model' AS type,
        multiIf(n = 0, 'logged', n = 1, 'complete', 'used') AS event, true AS has_aliases,
        ['best'] AS aliases, 5 AS bytes, 'hash' AS sha256, 's3://x' AS uri, 1.5 AS duration_s,
        if(n = 1, rank + who.3, NULL) AS version_at_ns WHERE n < 3""",
    "checkpoints": f"""
        {EVENT}, concat(run_id, toString(rank)) AS artifact, 'sharded' AS kind, n AS step,
        2 AS world_size, 5 AS bytes, map('loss', n / 8) AS metrics,
        n = 4 AS is_best WHERE n IN (4, 8) AND rank = 0""",
    "dead_letters": f"{RUN}, writer, 'x' AS id, at, 'why' AS reason, 3 AS points WHERE n = 2",
    "deleted_runs": f"{RUN}, at AS deleted_at WHERE run_id = 'gone' AND n = 0",
    "untidy_writers": f"{RUN}, rank, writer WHERE project = 'p'",
}
# Of the older version: nothing has them any more.
HASHES = ("run_key", "metric_id")
# A column of v_latest that no document names: how far a point is ahead of others.
INNER = ("newest",)


@pytest.fixture
def old(clickhouse_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A database of the last version with hashes in its keys, with rows in every table."""
    url = f"{clickhouse_server.url.rsplit('/', 1)[0]}/rw_test_names"
    client = connect(url, create=True)
    monkeypatch.setattr(migrate, "migrations", lambda: OLD)
    migrate.apply(client)
    monkeypatch.setattr(migrate, "migrations", lambda: KNOWN)
    for table, wanted in STORED.items():
        columns, _, condition = wanted.partition(" WHERE ")
        names = ", ".join(part.rsplit(" AS ", 1)[-1] for part in _items(columns))
        rows = f"SELECT *, {columns} FROM ({ROWS}) WHERE {condition or 1}"
        client.command(f"INSERT INTO {table} ({names}) SELECT {names} FROM ({rows})")
    yield client
    client.close()
    drop_database(clickhouse_server, url)


def _items(columns: str) -> list[str]:
    """Split a select list at its outer commas."""
    items, depth, start = [], 0, 0
    for at, letter in enumerate(columns):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            items.append(columns[start:at].strip())
            start = at + 1
    return [*items, columns[start:].strip()]


def contents(client: Client) -> dict[str, tuple[int, int]]:
    """Rows and hash of every public view, of the columns that both versions have."""
    views = [name for (name,) in client.query("SHOW TABLES LIKE 'v\\_%'").result_rows]
    found = {}
    for view in views:
        columns = [row[0] for row in client.query(f"DESCRIBE TABLE {view}").result_rows]
        texts = [
            f"ifNull(toString(`{name}`), '')"
            for name in sorted(columns)
            if name not in (*HASHES, *INNER)
        ]
        query = f"SELECT count(), sum(cityHash64({', '.join(texts)})) FROM {view}"
        found[view] = client.query(query).result_rows[0]
    return found


def leftovers(client: Client) -> list[str]:
    query = (
        "SELECT concat(table, '.', name) FROM system.columns "
        "WHERE database = currentDatabase() AND (name IN %(names)s OR table LIKE '%%by_hash')"
    )
    return [name for (name,) in client.query(query, parameters={"names": HASHES}).result_rows]


def test_views_show_the_same_rows_after_keys_became_names(old: Client) -> None:
    """Count and content of every view are those of before, and no hash of a name is left."""
    before = contents(old)
    assert all(rows for rows, _ in before.values()), before
    migrate.apply(old)
    assert contents(old) == before
    assert leftovers(old) == []


def test_migration_interrupted_after_each_statement_ends_with_the_same_rows(
    old: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run gets one statement further than the last; none loses or doubles a row."""
    before = contents(old)
    execute = migrate.execute
    done: set[str] = set()

    def limited(client: Client, statement: str, words: dict[str, str], purpose: str) -> None:
        execute(client, statement, words, purpose)
        if statement not in done:
            done.add(statement)
            raise Fatal("interrupted")

    monkeypatch.setattr(migrate, "execute", limited)
    while migrate.pending(old):
        with contextlib.suppress(Fatal):
            migrate.apply(old)
    assert contents(old) == before
    assert leftovers(old) == []


def test_copy_that_was_cut_off_half_way_is_completed(old: Client) -> None:
    """Rows that a broken copy left in a new table are not counted twice."""
    before = contents(old)
    first = KNOWN[len(OLD)]
    words = migrate.words(str(old.database), None)
    for statement in migrate.statements(first.text):
        migrate.execute(old, statement.text, words, "test")
    for table in ("metrics", "metric_rollup", "batches", "heartbeats"):
        columns = ", ".join(row[0] for row in old.query(f"DESCRIBE TABLE {table}").result_rows)
        old.command(
            f"INSERT INTO {table} SELECT {columns} FROM {table}_by_hash WHERE rank = 0",
            settings={"insert_deduplicate": 0},
        )
    migrate.apply(old)
    assert contents(old) == before
    assert leftovers(old) == []


def test_what_an_older_worker_writes_during_the_migration_is_refused_or_whole(
    old: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that was taken is an attempt afterwards: no table is without what fills others."""
    execute = migrate.execute
    taken: list[int] = []

    def beside_a_worker(
        client: Client, statement: str, words: dict[str, str], purpose: str
    ) -> None:
        execute(client, statement, words, purpose)
        attempt = 1000 + len(taken)
        with contextlib.suppress(ClickHouseError):
            client.command(
                "INSERT INTO run_events (project, run_key, run_id, rank, attempt, writer, seq, at,"
                f" append_at, event) SELECT 'late', 1, 'r', 0, {attempt}, 7, 0, now64(3), now64(3),"
                " 'started'"
            )
            taken.append(attempt)

    monkeypatch.setattr(migrate, "execute", beside_a_worker)
    migrate.apply(old)
    assert taken
    query = "SELECT attempt_key FROM v_attempts WHERE project = 'late' ORDER BY attempt_key"
    assert [key for (key,) in old.query(query).result_rows] == taken


def test_replica_has_all_rows_of_a_table_before_they_are_copied(
    old: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the drop on the whole cluster would remove what this replica had not fetched yet.

    This engine has no replicas: the statements for a cluster run here as they do without one.
    """
    before = contents(old)
    execute, alone = migrate.execute, migrate.words(str(old.database), None)
    ran: list[str] = []

    def run(client: Client, statement: str, words: dict[str, str], purpose: str) -> None:
        ran.append(statement)
        if not statement.startswith("SYSTEM SYNC REPLICA "):
            execute(client, statement, alone, purpose)

    monkeypatch.setattr(migrate, "execute", run)
    migrate.apply(old, cluster="all_replicas")
    copies = [at for at, statement in enumerate(ran) if statement.endswith("_by_hash")
              and statement.startswith("INSERT ")]  # fmt: skip
    assert len(copies) == len(_renamed())
    for at in copies:
        source = ran[at].rpartition("FROM ")[2]
        assert ran[at - 1] == f"SYSTEM SYNC REPLICA {source}"
    assert contents(old) == before


def _renamed() -> list[str]:
    """The statements that move tables aside."""
    moved = migrate.statements(KNOWN[len(OLD)].text)
    return [one.text for one in moved if one.text.startswith("RENAME ")]
