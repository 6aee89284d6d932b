"""Artifacts: the versions in the store, joined with lineage and unfinished uploads of the views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from runwire_query.api import lineage
from runwire_query.api.lineage import UnfinishedArtifact, UsedArtifact
from runwire_query.api.runs import RunRef
from runwire_query.storage import instant_of_ns

if TYPE_CHECKING:
    from runwire_query.connection import Reader
    from runwire_store.catalog import Catalog, Version

__all__ = [
    "ArtifactDetail",
    "ArtifactFile",
    "ArtifactList",
    "ArtifactRow",
    "list_artifacts",
    "read_artifact",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRow:
    """One version in the store, or an artifact that is not there yet (`version` is None).

    `used_by` is None when ClickHouse could not be asked.
    """

    project: str
    name: str
    version: int | None
    aliases: tuple[str, ...]
    type: str
    state: str
    reason: str | None
    run_id: str
    rank: int
    files: int
    bytes: int
    sha256: str
    created_at: datetime
    route: str
    artifact: str
    used_by: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactList:
    """Versions and unfinished artifacts, newest first.

    `missing_because` is the reason when the views could not be asked, else empty; `damaged` maps
    each manifest that could not be read to the reason.
    """

    rows: tuple[ArtifactRow, ...]
    missing_because: str
    damaged: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFile:
    """One file of an artifact; `uri` is set when it is known by reference only."""

    path: str
    bytes: int
    sha256: str
    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactDetail:
    """One version with its content and lineage; `made_from` is None without ClickHouse."""

    row: ArtifactRow
    made_from: tuple[UsedArtifact, ...] | None
    metadata: Mapping[str, Any]
    manifest: str
    content: tuple[ArtifactFile, ...]
    missing_because: str


def list_artifacts(
    catalog: Catalog,
    directory: str | None,
    *,
    project: str | None = None,
    run_id: str | None = None,
    name: str | None = None,
    kind: str | None = None,
) -> ArtifactList:
    """Return the versions in the store and the uploads that ClickHouse knows as unfinished.

    Raises: StoreError. Blocks: one listing of the store; at most 5 s to connect to ClickHouse.
    """
    versions = catalog.artifacts(project, run_id=run_id, name=name, type=kind)
    rows = [_stored(version) for version in versions]

    def ask(
        reader: Reader,
    ) -> tuple[dict[tuple[str, str], tuple[str, ...]], list[UnfinishedArtifact]]:
        unfinished = lineage.list_unfinished(reader, project=project, run_id=run_id, kind=kind)
        return lineage.read_users(reader, project), unfinished

    answer = lineage.ask_if_reachable(directory, ask)
    if answer.value is not None:
        users, unfinished = answer.value
        rows = [replace(row, used_by=users.get((row.name, row.sha256), ())) for row in rows]
        # The store is newer than the views, which events reach seconds later.
        stored = {version.manifest.artifact for version in versions}
        rows += [
            _unfinished(entry)
            for entry in unfinished
            if entry.artifact not in stored and name in (None, entry.name)
        ]
    rows.sort(key=lambda row: row.created_at, reverse=True)
    return ArtifactList(
        rows=tuple(rows), missing_because=answer.missing_because, damaged=versions.damaged
    )


def read_artifact(version: Version, directory: str | None, *, store_uri: str) -> ArtifactDetail:
    """Return everything about one version. Blocks: at most 5 s to connect to ClickHouse."""
    manifest = version.manifest
    run = RunRef(project=manifest.project, run_id=manifest.run_id)

    def ask(reader: Reader) -> tuple[tuple[str, ...], tuple[UsedArtifact, ...]]:
        users = lineage.read_users(reader, manifest.project)
        made_from = tuple(lineage.read_used(reader, run))
        return users.get((manifest.name, manifest.digest), ()), made_from

    answer = lineage.ask_if_reachable(directory, ask)
    used_by, made_from = (None, None) if answer.value is None else answer.value
    return ArtifactDetail(
        row=replace(_stored(version), used_by=used_by),
        made_from=made_from,
        metadata=dict(manifest.metadata),
        manifest=f"{store_uri}/{manifest.key}",
        content=tuple(
            ArtifactFile(path=e.path, bytes=e.size, sha256=e.sha256, uri=e.uri)
            for e in manifest.files
        ),
        missing_because=answer.missing_because,
    )


def _stored(version: Version) -> ArtifactRow:
    manifest = version.manifest
    return ArtifactRow(
        project=manifest.project,
        name=manifest.name,
        version=version.number,
        aliases=tuple(version.aliases),
        type=manifest.type,
        state="complete",
        reason=None,
        run_id=manifest.run_id,
        rank=manifest.rank,
        files=len(manifest.files),
        bytes=manifest.size,
        sha256=manifest.digest,
        created_at=instant_of_ns(manifest.created_at_ns),
        route=manifest.route,
        artifact=manifest.artifact,
        used_by=None,
    )


def _unfinished(entry: UnfinishedArtifact) -> ArtifactRow:
    return ArtifactRow(
        project=entry.project,
        name=entry.name,
        version=None,
        aliases=(),
        type=entry.type,
        state=entry.state,
        reason=entry.reason,
        run_id=entry.run_id,
        rank=entry.rank,
        files=entry.files,
        bytes=entry.bytes,
        sha256="",
        created_at=entry.logged_at,
        route=entry.route,
        artifact=entry.artifact,
        used_by=(),
    )
