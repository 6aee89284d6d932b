"""The archive of a run: its rows as Parquet in the object store, and back, row for row.

An archive exists once its manifest does, which is stored last, after every file was read back. A
run that comes back is hidden until all its rows are there and their hashes are those of the
manifest. Both ways may be interrupted anywhere and run again.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse.tombstones import (
    ARCHIVED,
    RESTORING,
    RunNames,
    Tombstone,
    find_tombstones,
    hide_run,
    of_run,
    remove_rows,
)
from runwire_consumers.housekeeping.archive_manifest import (
    ArchivedFile,
    ArchivedTable,
    ArchiveError,
    ArchiveManifest,
    read_archive,
)
from runwire_consumers.housekeeping.purge import POLL_S, wait_until_purged
from runwire_consumers.housekeeping.run_rows import (
    CHUNK_BYTES,
    FADING,
    ROWS_PER_FILE,
    RowsHash,
    RunTable,
    is_same,
    run_tables,
)
from runwire_store.layout import archive_key, archive_prefix
from runwire_store.store import NotFound, ObjectStore, map_in_parallel

SCRATCH_PREFIX: Final = ".archive-"
# Longer than any archive takes to be made.
ABANDONED_MS: Final = 7 * 86_400_000


def archive_run(
    client: Client,
    store: ObjectStore,
    project: str,
    run_id: str,
    *,
    scratch: Path,
    rows_per_file: int = ROWS_PER_FILE,
    may_shrink: bool = False,
) -> ArchiveManifest:
    """Store the rows of a run and return the manifest; a whole archive of the same rows is kept.

    One of more rows is replaced only if it `may_shrink`: the run was thinned since, or begun anew.
    Files pass through the folder `scratch`, one at a time.
    Raises: ArchiveError, StoreAway, StoreRefused, OSError; an error of CALL_ERRORS.
    """
    tables = run_tables(client)
    hashes = _hash_tables(client, tables, project, run_id)
    known = read_archive(store, project, run_id)
    if known is not None and not _missing_files(store, known):
        if not _differing(known, hashes):
            return known
        if not may_shrink:
            _check_growth(known, hashes)
    stamp_ms = time.time_ns() // 1_000_000
    files: list[ArchivedFile] = []
    with _scratch(scratch) as folder:
        archiving = _Archiving(client, store, (project, run_id), stamp_ms, folder, rows_per_file)
        for table in tables:
            files += archiving.store_table(table, hashes[table.name])
    changed = [
        name
        for name, found in _hash_tables(client, tables, project, run_id).items()
        if not is_same(name, found, hashes[name])
    ]
    if changed:
        raise ArchiveError(
            f"rows of run {run_id} were stored while it was archived ({', '.join(changed)}): "
            "run the command again"
        )
    manifest = ArchiveManifest(
        project=project,
        run_id=run_id,
        archived_at_ms=stamp_ms,
        tables={
            table.name: ArchivedTable(
                columns=tuple(table.columns),
                rows=hashes[table.name].rows,
                hash=hashes[table.name].hash,
            )
            for table in tables
        },
        files=tuple(files),
    )
    store.put(manifest.key, manifest.to_json())
    _delete_replaced(store, known, manifest)
    return manifest


def hide_archived(client: Client, store: ObjectStore, project: str, run_id: str) -> Tombstone:
    """Hide a run whose rows are all in its archive; the purge removes them.

    Raises: ArchiveError when the archive is missing, lacks files or holds other rows; StoreAway,
    StoreRefused; an error of CALL_ERRORS.
    """
    manifest = read_archive(store, project, run_id)
    if manifest is None:
        raise ArchiveError(f"run {run_id} of {project} has no archive: its rows stay")
    if missing := _missing_files(store, manifest):
        raise ArchiveError(
            f"the archive of run {run_id} lacks its file {missing[0]}: archive it again; its rows "
            "stay"
        )
    differing = _differing(manifest, _hash_tables(client, run_tables(client), project, run_id))
    if differing:
        raise ArchiveError(
            f"run {run_id} has rows that its archive lacks ({', '.join(differing)}): archive it "
            "again; its rows stay"
        )
    return hide_run(client, project, run_id, ARCHIVED)


def unarchive_run(
    client: Client,
    store: ObjectStore,
    project: str,
    run_id: str,
    *,
    scratch: Path,
    report: Callable[[int, dict[str, str]], None],
) -> ArchiveManifest:
    """Bring the rows of an archived run back, then show it; the archive stays.

    Raises: ArchiveError, StoreAway, StoreRefused, OSError; an error of CALL_ERRORS.
    Blocks: also until a purge of its rows that has begun is through; `report` as for that.
    """
    manifest = read_archive(store, project, run_id)
    if manifest is None:
        raise ArchiveError(f"run {run_id} of {project} has no archive")
    tables = {table.name: table for table in run_tables(client)}
    _check_columns(manifest, tables)
    mark = next(iter(find_tombstones(client, run_id, project)), None)
    if mark is None and not _differing(manifest, _hash_archived(client, manifest, tables)):
        return manifest
    if mark is None and _has_rows(client, tables, manifest):
        raise ArchiveError(
            f"run {run_id} of {project} is here, with other rows than its archive, so it stays as "
            "it is. `runwire delete` would delete both, `runwire archive --force` replace the "
            "archive"
        )
    if mark is not None and mark.state != RESTORING and not mark.is_purged:
        wait_until_purged(client, [(project, run_id)], report)
    restoring = hide_run(client, project, run_id, RESTORING)
    _forget_purge(client, project, run_id)
    with _scratch(scratch) as folder:
        for file in manifest.files:
            path = folder / "rows.parquet"
            _fetch(store, file, path)
            tables[file.table].insert(client, manifest.tables[file.table].columns, path)
    differing = _differing(manifest, _hash_archived(client, manifest, tables))
    if differing:
        raise ArchiveError(
            f"the rows of run {run_id} are not those of its archive ({', '.join(differing)}); it "
            "stays hidden: run the command again"
        )
    # A purge that looked at the run before it came back may have set this mark only now; rows of a
    # run with that mark alone are taken for late ones, and removed.
    _forget_purge(client, project, run_id)
    _show(client, restoring)
    return manifest


@dataclass(frozen=True, slots=True)
class _Archiving:
    """One archive in the making."""

    client: Client
    store: ObjectStore
    names: RunNames
    stamp_ms: int
    folder: Path
    rows_per_file: int

    def store_table(self, table: RunTable, wanted: RowsHash) -> list[ArchivedFile]:
        """Store the files of one table, each proven to hold its rows and to be readable again."""
        files, rows, total, path = [], 0, 0, self.folder / "rows.parquet"
        for part, first in enumerate(range(0, wanted.rows, self.rows_per_file)):
            some = range(first, first + self.rows_per_file)
            sha256 = table.export(self.client, self.names, some, path)
            held = table.hash_file(self.client, path)
            rows, total = rows + held.rows, (total + int(held.hash, 16)) % 2**64
            key = archive_key(*self.names, stamp_ms=self.stamp_ms, table=table.name, part=part)
            file = ArchivedFile(table=table.name, key=key, size=path.stat().st_size, sha256=sha256)
            self.store.put_file(key, path)
            _fetch(self.store, file, path)
            files.append(file)
        if not is_same(table.name, RowsHash(rows, f"{total:016x}"), wanted):
            raise ArchiveError(
                f"the files of table {table.name} do not hold its rows ({rows} of {wanted.rows}): "
                "rows were stored meanwhile, or this ClickHouse writes other values as Parquet; "
                "run the command again"
            )
        return files


def _check_growth(known: ArchiveManifest, hashes: dict[str, RowsHash]) -> None:
    """Raises: ArchiveError when the archive has rows that the run lacks."""
    for name, table in known.tables.items():
        now = hashes[name].rows if name in hashes else 0
        if name not in FADING and now < table.rows:
            raise ArchiveError(
                f"the archive of run {known.run_id} has {table.rows} rows of {name}, and the run "
                f"has {now}: it was thinned since, or begun anew. The archive stays; --force "
                "replaces it"
            )


def _delete_replaced(
    store: ObjectStore, known: ArchiveManifest | None, manifest: ArchiveManifest
) -> None:
    """Delete the files of the archive before this one, and what interrupted commands left."""
    prefix = archive_prefix(manifest.project, manifest.run_id)
    # Keys begin with their stamp. Younger files may be of another command that runs now.
    oldest = f"{prefix}{manifest.archived_at_ms - ABANDONED_MS:014d}"
    stale = {stat.key for stat in store.list(prefix) if stat.key < oldest}
    if known is not None:
        stale |= {file.key for file in known.files}
    store.delete(sorted(stale - {file.key for file in manifest.files}))


def _missing_files(store: ObjectStore, manifest: ArchiveManifest) -> list[str]:
    """Return the keys of files that are not there, or have another size."""
    stats = map_in_parallel(store.stat, [file.key for file in manifest.files])
    return [
        file.key
        for file, stat in zip(manifest.files, stats, strict=True)
        if stat is None or stat.size != file.size
    ]


def _fetch(store: ObjectStore, file: ArchivedFile, path: Path) -> None:
    """Download a file and compare its hash. Raises: ArchiveError."""
    path.unlink(missing_ok=True)
    try:
        store.get_file(file.key, path)
    except NotFound as error:
        raise ArchiveError(f"the archive lacks its file {file.key}") from error
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != file.sha256:
        raise ArchiveError(f"the store holds other bytes of {file.key} than were archived")


def _hash_tables(
    client: Client, tables: list[RunTable], project: str, run_id: str
) -> dict[str, RowsHash]:
    return {table.name: table.hash_rows(client, project, run_id) for table in tables}


def _hash_archived(
    client: Client, manifest: ArchiveManifest, tables: dict[str, RunTable]
) -> dict[str, RowsHash]:
    """Return the hashes of the run's rows over the columns that the archive has."""
    return {
        name: tables[name].hash_rows(client, manifest.project, manifest.run_id, archived.columns)
        for name, archived in manifest.tables.items()
    }


def _differing(manifest: ArchiveManifest, found: dict[str, RowsHash]) -> list[str]:
    """Return the tables whose rows are not those of the archive."""
    none = ArchivedTable(columns=(), rows=0, hash=f"{0:016x}")
    differing = []
    for name, hashed in found.items():
        table = manifest.tables.get(name, none)
        if not is_same(name, hashed, RowsHash(table.rows, table.hash)):
            differing.append(name)
    return differing


def _check_columns(manifest: ArchiveManifest, tables: dict[str, RunTable]) -> None:
    for name, archived in manifest.tables.items():
        lacks = set(archived.columns) - set(tables[name].columns if name in tables else ())
        if lacks and archived.rows:
            raise ArchiveError(
                f"table {name} has no {', '.join(sorted(lacks))} any more, which the archive has: "
                "use the runwire that made it"
            )


def _has_rows(client: Client, tables: dict[str, RunTable], manifest: ArchiveManifest) -> bool:
    where = of_run(manifest.project, manifest.run_id)
    selects = [f"SELECT count() AS n FROM {name} WHERE {where}" for name in tables]
    return bool(client.command(f"SELECT sum(n) FROM ({' UNION ALL '.join(selects)})"))


def _forget_purge(client: Client, project: str, run_id: str) -> None:
    """Take the mark of a purged run away, before it has rows. Blocks: until it is gone."""
    remove_rows(client, "purged_runs", of_run(project, run_id))
    while client.command(f"SELECT count() FROM purged_runs WHERE {of_run(project, run_id)}"):
        time.sleep(POLL_S)


def _show(client: Client, restoring: Tombstone) -> None:
    """Take away the marks up to this one; a deletion asked for since stays. Blocks: until gone."""
    where = (
        f"{of_run(restoring.project, restoring.run_id)} "
        f"AND deleted_at <= toDateTime64('{restoring.deleted_at:%Y-%m-%d %H:%M:%S.%f}', 3, 'UTC')"
    )
    remove_rows(client, "deleted_runs", where)
    while client.command(f"SELECT count() FROM deleted_runs WHERE {where}"):
        time.sleep(POLL_S)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH_PREFIX) as made:
        yield Path(made)
