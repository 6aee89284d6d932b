"""What is told of an artifact when something happens to it, by agents and workers alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Protocol

from runwire_schemas.events import ArtifactEvent
from runwire_store.layout import blob_key
from runwire_store.manifest import Manifest

__all__ = [
    "COMPLETE",
    "DELETED",
    "FAILED",
    "LOGGED",
    "SHIPPED",
    "USED",
    "artifact_event",
    "artifact_fields",
    "uri_of",
]

LOGGED: Final = "logged"
USED: Final = "used"
SHIPPED: Final = "shipped"
COMPLETE: Final = "complete"
FAILED: Final = "failed"
DELETED: Final = "deleted"


class Described(Protocol):
    """An artifact as a manifest or an upload request describes it."""

    @property
    def artifact(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...
    @property
    def files(self) -> Sequence[object]: ...
    @property
    def size(self) -> int: ...
    @property
    def route(self) -> str: ...


def artifact_fields(
    described: Described,
    event: str,
    *,
    sha256: str,
    uri: str = "",
    at_ns: int | None = None,
    metadata: str | None = None,
) -> dict[str, Any]:
    """Return the fields of a trainer's record that it logged or used an artifact.

    The writer of the record adds run, rank and number, and the time where `at_ns` is None.
    """
    fields: dict[str, Any] = {} if at_ns is None else {"at_ns": at_ns}
    fields |= {
        "artifact": described.artifact,
        "event": event,
        "name": described.name,
        "type": described.type,
        "aliases": list(described.aliases) or None,
    }
    if event == LOGGED:
        fields["metadata"] = metadata
    fields |= {
        "files": len(described.files),
        "bytes": described.size,
        "sha256": sha256,
        "uri": uri,
        "route": described.route,
    }
    if event == USED:
        fields["version_at_ns"] = getattr(described, "version_at_ns", 0) or None
    return fields


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
