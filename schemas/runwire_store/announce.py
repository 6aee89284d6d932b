"""The only factory of events about artifacts and checkpoints, for SDK, agent and object worker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
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
    "failed_event",
    "logged_fields",
    "saved_fields",
    "uri_of",
    "used_fields",
]

LOGGED: Final = "logged"
USED: Final = "used"
SHIPPED: Final = "shipped"
COMPLETE: Final = "complete"
FAILED: Final = "failed"
DELETED: Final = "deleted"


class _LoggedFile(Protocol):
    @property
    def sha256(self) -> str: ...


class Logged(Protocol):
    """The facts of an artifact that was logged: those of a request in the outbox."""

    @property
    def artifact(self) -> str:
        """Its id."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def type(self) -> str:
        """Its type."""
        ...

    @property
    def created_at_ns(self) -> int:
        """Time of the call."""
        ...

    @property
    def files(self) -> Sequence[_LoggedFile]:
        """Its files; `sha256` is empty where it is not computed yet."""
        ...

    @property
    def size(self) -> int:
        """Bytes of all files."""
        ...

    @property
    def aliases(self) -> Sequence[str]:
        """Aliases given by the call."""
        ...

    @property
    def route(self) -> str:
        """Its route to the store."""
        ...


def artifact_event(
    manifest: Manifest,
    event: str,
    *,
    at_ns: int,
    store_uri: str = "",
    reason: str | None = None,
    text: str | None = None,
) -> ArtifactEvent:
    """Return an event about an artifact; `text` is the list of pieces that "shipped" carries.

    Its `seq` is the time: of all events about an artifact, by any process, the last one counts.
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


def failed_event(shipped: ArtifactEvent, reason: str) -> ArtifactEvent:
    """Return the event that a shipped artifact can never be published."""
    return replace(shipped, event=FAILED, reason=reason, manifest=None)


def logged_fields(logged: Logged, metadata: str | None) -> dict[str, Any]:
    """Return the fields of "logged" without those of the writer; `metadata` is JSON text."""
    return {
        "at_ns": logged.created_at_ns,
        "artifact": logged.artifact,
        "event": LOGGED,
        "name": logged.name,
        "type": logged.type,
        "aliases": list(logged.aliases) or None,
        "metadata": metadata,
        "files": len(logged.files),
        "bytes": logged.size,
        "sha256": logged.files[0].sha256 if len(logged.files) == 1 else "",
        "uri": "",
        "route": logged.route,
    }


def used_fields(manifest: Manifest, uri: str) -> dict[str, Any]:
    """Return the fields of "used", a run read this artifact, without those of the writer."""
    return {
        "artifact": manifest.artifact,
        "event": USED,
        "name": manifest.name,
        "type": manifest.type,
        "aliases": list(manifest.aliases) or None,
        "files": len(manifest.files),
        "bytes": manifest.size,
        "sha256": manifest.digest,
        "uri": uri,
        "route": manifest.route,
        "version_at_ns": manifest.version_at_ns or None,
    }


def uri_of(manifest: Manifest, store_uri: str) -> str:
    """Return the address of an artifact: its only file, or the manifest of all its files."""
    if len(manifest.files) == 1:
        (entry,) = manifest.files
        return entry.uri or f"{store_uri}/{blob_key(entry.sha256)}"
    return f"{store_uri}/{manifest.key}"


def saved_fields(manifest: Manifest, uri: str) -> dict[str, Any]:
    """Return the record of a saved checkpoint."""
    facts = manifest.checkpoint
    assert facts is not None
    return {
        "at_ns": manifest.created_at_ns,
        "artifact": manifest.artifact,
        "step": facts.step,
        "kind": facts.kind,
        "world_size": facts.world_size,
        "metrics": dict(facts.metrics),
        "is_best": facts.is_best,
        "bytes": manifest.size,
        # For foreign checkpoints the agent computes the digest later; it is unknown here.
        "sha256": manifest.digest if all(entry.sha256 for entry in manifest.files) else "",
        "uri": uri,
        "duration_s": facts.duration_s,
        "blocked_s": facts.blocked_s,
        "raw_bytes": facts.raw_bytes,
    }
