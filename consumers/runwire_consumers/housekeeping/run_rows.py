"""The rows of one run, table by table: their number and hash, to Parquet and back."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.external import ExternalData

from runwire_consumers.clickhouse.tombstones import RUN_TABLES, RunNames, literal, of_run

# A server needs a whole Parquet file in memory to read it, and so do we to send it.
ROWS_PER_FILE: Final = 500_000
CHUNK_BYTES: Final = 1024 * 1024
# Rows of these tables expire, so fewer may be left.
FADING: Final = frozenset({"heartbeats"})
_SIMPLE: Final = re.compile(r"^SimpleAggregateFunction\(\w+, (.*)\)$")


@dataclass(frozen=True, slots=True)
class RowsHash:
    """Number and hash of rows; neither depends on their order or on unmerged copies."""

    rows: int
    hash: str


@dataclass(frozen=True, slots=True)
class RunTable:
    """One table: its columns with their types, and the key that orders and identifies rows."""

    name: str
    columns: dict[str, str]
    key: str

    def hash_rows(
        self, client: Client, project: str, run_id: str, columns: Sequence[str] = ()
    ) -> RowsHash:
        """Return number and hash of the run's rows, over these columns or all."""
        names = columns or list(self.columns)
        return _hash(client, names, f"{self.name} FINAL WHERE {of_run(project, run_id)}")

    def hash_file(self, client: Client, path: Path) -> RowsHash:
        """Return what `hash_rows` would return if the rows of the file were the run's."""
        types = [f"`{name}` {_plain(kind)}" for name, kind in self.columns.items()]
        data = ExternalData(
            file_name="file", data=path.read_bytes(), fmt="Parquet", structure=types
        )
        return _hash(client, list(self.columns), "file", data)

    def export(self, client: Client, names: RunNames, rows: range, path: Path) -> str:
        """Write these rows of the run, in the order of the key, to a file; return its SHA-256.

        Raises: OSError; an error of CALL_ERRORS.
        """
        digest = hashlib.sha256()
        stream: Any = client.raw_stream(
            f"SELECT {_list_columns(self.columns)} FROM {self.name} FINAL "
            f"WHERE {of_run(*names)} ORDER BY {self.key} LIMIT {len(rows)} OFFSET {rows.start}",
            fmt="Parquet",
            # Else an error on the way would arrive as a part of the file.
            settings={"wait_end_of_query": 1},
        )
        with closing(stream), path.open("wb") as file:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        return digest.hexdigest()

    def insert(self, client: Client, columns: Sequence[str], path: Path) -> None:
        """Insert the rows of a file; a repeat adds copies, which collapse by their key."""
        client.raw_insert(
            self.name,
            column_names=list(columns),
            insert_block=path.read_bytes(),
            fmt="Parquet",
            settings={
                "async_insert": 0,
                # One that no insert had: rows that came and were deleted before are taken again.
                "insert_deduplication_token": uuid.uuid4().hex,
                "deduplicate_blocks_in_dependent_materialized_views": 1,
            },
        )


def run_tables(client: Client) -> list[RunTable]:
    """Return all tables with rows of runs, as this database has them."""
    known = ", ".join(map(literal, RUN_TABLES))
    columns: dict[str, dict[str, str]] = {}
    for table, name, kind in client.query(
        "SELECT table, name, type FROM system.columns WHERE database = currentDatabase() "
        f"AND table IN ({known}) AND default_kind IN ('', 'DEFAULT') ORDER BY table, position"
    ).result_rows:
        columns.setdefault(table, {})[name] = kind
    keys = {
        str(table): str(key)
        for table, key in client.query(
            "SELECT name, sorting_key FROM system.tables WHERE database = currentDatabase() "
            f"AND name IN ({known})"
        ).result_rows
    }
    return [RunTable(table, columns[table], keys[table]) for table in RUN_TABLES]


def is_same(table: str, found: RowsHash, wanted: RowsHash) -> bool:
    """Whether a table holds exactly the rows, or what has not expired of them."""
    return found == wanted or (table in FADING and found.rows < wanted.rows)


def _hash(
    client: Client, columns: Sequence[str], source: str, data: ExternalData | None = None
) -> RowsHash:
    # The bytes of a row are the same whatever a hash function makes of NULL, NaN or a map.
    row = f"formatRow('RowBinary', {_list_columns(columns)})"
    sql = f"SELECT count(), sum(sipHash64({row})) FROM {source}"
    ((rows, total),) = client.query(sql, external_data=data).result_rows
    return RowsHash(int(rows), f"{int(total):016x}")


def _list_columns(columns: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in columns)


def _plain(kind: str) -> str:
    """Return the type of the values of a column."""
    match = _SIMPLE.fullmatch(kind)
    return match[1] if match else kind
