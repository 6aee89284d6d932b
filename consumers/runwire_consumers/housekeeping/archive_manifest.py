"""The manifest of a run's archive: hashes of its files, and of the rows of each table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from runwire_schemas.errors import RunwireError
from runwire_store.layout import ARCHIVES, archive_manifest_key
from runwire_store.store import NotFound, ObjectStore, map_in_parallel

FORMAT: Final = 1


class ArchiveError(RunwireError):
    """An archive cannot be made, read or brought back; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedFile:
    """One Parquet file of the archive."""

    table: str
    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedTable:
    """The rows of the run in one table: their number, and a hash that their order cannot change."""

    columns: tuple[str, ...]
    rows: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveManifest:
    """An archive, as its last object `manifest.json`."""

    project: str
    run_id: str
    archived_at_ms: int
    tables: dict[str, ArchivedTable]
    files: tuple[ArchivedFile, ...]

    @property
    def key(self) -> str:
        """Key of the manifest in a store."""
        return archive_manifest_key(self.project, self.run_id)

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables.values())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def to_json(self) -> bytes:
        """Return the content of the object."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Return the manifest of an object. Raises: ArchiveError."""
        try:
            fields: dict[str, Any] = json.loads(data)
            if fields.pop("format") != FORMAT:
                raise ArchiveError("the archive was made by a newer runwire: upgrade this one")
            tables = {
                name: ArchivedTable(**{**table, "columns": tuple(table["columns"])})
                for name, table in fields.pop("tables").items()
            }
            files = tuple(ArchivedFile(**file) for file in fields.pop("files"))
            return cls(tables=tables, files=files, **fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchiveError(f"the manifest of the archive is damaged: {error!r}") from error


def read_archive(store: ObjectStore, project: str, run_id: str) -> ArchiveManifest | None:
    """Return the manifest of a run's archive; None when the run has none.

    Raises: ArchiveError, StoreAway, StoreRefused.
    """
    try:
        return ArchiveManifest.from_json(store.get(archive_manifest_key(project, run_id)))
    except NotFound:
        return None


def list_archives(store: ObjectStore) -> list[ArchiveManifest]:
    """Return the manifests of all archives. Raises: ArchiveError, StoreAway, StoreRefused."""
    keys = [stat.key for stat in store.list(ARCHIVES) if stat.key.endswith("/manifest.json")]
    found = [ArchiveManifest.from_json(data) for data in map_in_parallel(store.get, keys)]
    return sorted(found, key=lambda manifest: (manifest.project, manifest.run_id))
