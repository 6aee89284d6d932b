"""Artifacts that a run reads: found in the store, and remembered for lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runwire.artifacts.ref import ArtifactRef, opened_store
from runwire.errors import ArtifactError

if TYPE_CHECKING:
    from runwire.settings import Settings

__all__ = ["found"]


def found(
    settings: Settings, project: str, ref: str, kind: str | None
) -> tuple[ArtifactRef, dict[str, Any]]:
    """Return what a name means now, and the event that this run used it. Raises: ArtifactError."""
    from runwire_store.announce import used_fields
    from runwire_store.catalog import Catalog

    if not isinstance(ref, str) or not ref:
        raise ArtifactError(f"use_artifact({ref!r:.100}): give 'name', 'name:v3' or 'name:best'")
    with opened_store(settings) as store:
        manifest = Catalog(store).resolve(ref, project).manifest
        uri = f"{store.uri}/{manifest.key}"
    if kind is not None and manifest.type != kind:
        raise ArtifactError(
            f"{ref!r} is of type {manifest.type!r}, not {kind!r}: leave type= out, or name another"
        )
    known = ArtifactRef(
        id=manifest.artifact,
        name=manifest.name,
        type=manifest.type,
        route=manifest.route,
        size=manifest.size,
        key=manifest.key,
        project=manifest.project,
        settings=settings,
    )
    return known, used_fields(manifest, uri)
