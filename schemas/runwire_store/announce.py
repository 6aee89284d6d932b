"""What is told of an artifact when something happens to it, by agents and workers alike."""

from __future__ import annotations

import json
from typing import Final

from runwire_schemas.events import ArtifactEvent
from runwire_store.layout import blob_key
from runwire_store.manifest import Manifest

__all__ = ["COMPLETE", "DELETED", "FAILED", "SHIPPED", "artifact_event", "uri_of"]

SHIPPED: Final = "shipped"
COMPLETE: Final = "complete"
FAILED: Final = "failed"
DELETED: Final = "deleted"


def artifact_event(
    manifest: Manifest,
    event: str,
    *,
    at_ns: int,
    store_uri: str = "",
    reason: str | None = None,
    text: str | None = None,
) -> ArtifactEvent:
    """Return the event; `text` is what a "shipped" one carries as its manifest.

    Its `seq` is the time: the last one told of an artifact counts, whoever told it.
    """
    is_hashed = all(entry.sha256 for entry in manifest.files)
    return ArtifactEvent(
        project=manifest.project,
        run_id=manifest.run_id,
        attempt=manifest.attempt,
        writer=manifest.writer,
        rank=manifest.rank,
        seq=at_ns,
        at_ns=at_ns,
        artifact=manifest.artifact,
        event=event,
        name=manifest.name,
        type=manifest.type,
        aliases=list(manifest.aliases) or None,
        metadata=json.dumps(manifest.metadata) if manifest.metadata else None,
        files=len(manifest.files),
        bytes=manifest.size,
        sha256=manifest.digest if is_hashed else "",
        uri=uri_of(manifest, store_uri) if store_uri else "",
        route=manifest.route,
        version_at_ns=manifest.version_at_ns or None,
        reason=reason,
        duration_s=(at_ns - manifest.created_at_ns) / 1e9 if event == COMPLETE else None,
        manifest=text,
    )


def uri_of(manifest: Manifest, store_uri: str) -> str:
    """Return where an artifact lies: its only file, or the manifest that names all of them."""
    if len(manifest.files) == 1:
        (entry,) = manifest.files
        return entry.uri or f"{store_uri}/{blob_key(entry.sha256)}"
    return f"{store_uri}/{manifest.key}"
