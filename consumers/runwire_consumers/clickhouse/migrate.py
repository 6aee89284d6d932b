"""Migrations to the tables and views of this version: numbered SQL, forward only."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse.client import CALL_ERRORS
from runwire_consumers.core.errors import Fatal
from runwire_schemas.connections.clickhouse import first_line

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
# Skipped whole: a ; inside a string, a quoted name or a comment ends no statement.
_TOKEN = re.compile(
    r"'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"|--[^\n]*|/\*.*?\*/|;", re.DOTALL
)
_GUARD = re.compile(r"-- only while (\w+) has (\w+)")
_RECORD = """
CREATE TABLE IF NOT EXISTS {database}.schema_migrations {on_cluster}
(version UInt32, name String, checksum String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3))
ENGINE = {replicated}ReplacingMergeTree(applied_at) ORDER BY version
"""


# A new database starts with this migration: it and those behind it make everything. Earlier ones
# are run only where an older version has been, whose rows it takes over.
_START = 8
# The table that every older version had first, and the column that it had until then.
_OLD = ("metrics", "run_key")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `guard` is the table and column that it needs, else nothing is left to do."""

    text: str
    guard: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `migrations/`."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """Checksum of the released file: an applied migration must never be edited."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]


def migrations() -> list[Migration]:
    """Return all migrations of this version in order."""
    folder = resources.files(__package__) / "migrations"
    files = sorted((f for f in folder.iterdir() if _NAME.fullmatch(f.name)), key=lambda f: f.name)
    return [Migration(int(f.name[:4]), f.name[:-4], f.read_text("utf-8")) for f in files]


def starting(known: list[Migration]) -> list[Migration]:
    """Return those of the migrations that make a new database."""
    return [migration for migration in known if migration.version >= _START]


def statements(text: str) -> list[Statement]:
    """Return the statements of an SQL text, without comments.

    A line `-- only while TABLE has COLUMN` guards the statement behind it.
    """
    parts: list[Statement] = []
    current: list[str] = []
    guard, end = None, 0
    for token in _TOKEN.finditer(text):
        current.append(text[end : token.start()])
        end = token.end()
        if token[0] == ";":
            parts.append(Statement("".join(current).strip(), guard))
            current, guard = [], None
        elif match := _GUARD.fullmatch(token[0]):
            guard = (match[1], match[2])
        elif not token[0].startswith(("--", "/*")):
            current.append(token[0])
    parts.append(Statement("".join([*current, text[end:]]).strip(), guard))
    return [part for part in parts if part.text]


def apply(client: Client, *, cluster: str | None = None) -> list[str]:
    """Run the migrations this database lacks; return their names.

    With `cluster`, tables are created ON CLUSTER with Replicated engines (our tests do not run
    this: the embedded engine has no Keeper).
    Raises: Fatal when a migration fails or an applied one was changed.
    """
    database = client.database or "runwire"
    filled = words(database, cluster)
    if cluster:  # the connection made it on one replica only
        make = "CREATE DATABASE IF NOT EXISTS {database} {on_cluster}"
        execute(client, make, filled, "creation of the database")
    execute(client, _RECORD, filled, "migration schema_migrations")
    applied = _applied(client, database)
    known = migrations()
    # By the tables, not by their record alone: each shard of a cluster has a record of its own.
    is_old = bool(_columns(client, {_OLD}))
    if is_old and cluster and (shards := _shards(client, cluster)) > 1:
        raise Fatal(
            f"`{database}` has tables of an older version on {shards} shards, and only the rows of "
            f"one would be moved: for each shard, give --cluster a cluster of its replicas alone"
        )
    is_new = bool(starting(known)) and not applied and not is_old
    skipped = []
    if is_new or _START in applied:
        skipped = [m for m in known if m.version < _START and m.version not in applied]
        _record(client, skipped)
        applied |= {migration.version: migration.checksum for migration in skipped}
    done = [migration.name for migration in skipped]
    for migration in known:
        checksum = applied.pop(migration.version, None)
        if checksum == migration.checksum:
            continue
        if checksum is not None:
            raise Fatal(
                f"migration {migration.name} was applied to `{database}` with a different text: "
                f"never edit a released migration, add a new one"
            )
        _run(client, migration, filled)
        _record(client, [migration])
        done.append(migration.name)
    if applied:
        newest = max(applied)
        raise Fatal(
            f"`{database}` was migrated by a newer runwire (migration {newest:04d}): "
            f"upgrade runwire on this machine"
        )
    return done


def _record(client: Client, done: list[Migration]) -> None:
    rows = [[migration.version, migration.name, migration.checksum] for migration in done]
    if rows:
        client.insert("schema_migrations", rows, column_names=["version", "name", "checksum"])


def _run(client: Client, migration: Migration, words: dict[str, str]) -> None:
    """Run the statements whose guard holds; a repeat after an interruption does what is left."""
    guarded = statements(migration.text)
    guards = {one.guard for one in guarded if one.guard}
    holding = _columns(client, guards) if guards else set()
    for one in guarded:
        if one.guard is None or one.guard in holding:
            if one.guard and words["{replicated}"] and one.text.startswith("INSERT "):
                # What it copies is then dropped on all replicas, so this one must have all of it.
                sync = f"SYSTEM SYNC REPLICA {{database}}.{one.guard[0]}"
                execute(client, sync, words, f"migration {migration.name}")
            execute(client, one.text, words, f"migration {migration.name}")
            if one.guard:
                holding = _columns(client, guards)


def pending(client: Client) -> list[str]:
    """Return the names of the migrations this database lacks."""
    database = client.database or "runwire"
    recorded = client.command("EXISTS TABLE schema_migrations")
    applied = _applied(client, database) if recorded else {}
    return [m.name for m in migrations() if m.version not in applied]


def newest(client: Client) -> int:
    """Return the version of the newest migration this database has; 0 without any."""
    database = client.database or "runwire"
    recorded = client.command("EXISTS TABLE schema_migrations")
    return max(_applied(client, database), default=0) if recorded else 0


def words(database: str, cluster: str | None) -> dict[str, str]:
    """Return what stands for each placeholder in a migration."""
    return {
        "{database}": f"`{database}`",
        "{on_cluster}": f"ON CLUSTER `{cluster}`" if cluster else "",
        "{replicated}": "Replicated" if cluster else "",
    }


def fill(text: str, words: dict[str, str]) -> str:
    """Return a statement with its placeholders replaced."""
    for word, replacement in words.items():
        text = text.replace(word, replacement)
    return text


def execute(client: Client, statement: str, words: dict[str, str], purpose: str) -> None:
    """Run a statement with placeholders. Raises: Fatal "<purpose> failed"."""
    try:
        client.command(fill(statement, words))
    except CALL_ERRORS as error:
        raise Fatal(f"{purpose} failed and can be run again: {first_line(error)}") from error


def _applied(client: Client, database: str) -> dict[int, str]:
    query = f"SELECT version, checksum FROM `{database}`.schema_migrations FINAL"
    return {int(version): str(checksum) for version, checksum in client.query(query).result_rows}


def _columns(client: Client, wanted: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return those of these tables and columns that exist."""
    names = sorted({column for _, column in wanted})
    query = (
        "SELECT table, name FROM system.columns "
        "WHERE database = currentDatabase() AND name IN %(names)s"
    )
    rows = client.query(query, parameters={"names": names}).result_rows
    return wanted & {(str(table), str(column)) for table, column in rows}


def _shards(client: Client, cluster: str) -> int:
    query = "SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = %(cluster)s"
    return int(client.query(query, parameters={"cluster": cluster}).result_rows[0][0])
