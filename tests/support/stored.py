"""Artifacts and checkpoints of made-up content, stored and published."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runwire_store.catalog import Catalog
from runwire_store.layout import blob_key
from runwire_store.manifest import CheckpointFacts, FileEntry, Manifest, checkpoint_name
from runwire_store.publish import publish
from runwire_store.retention import Retention, expired_manifests
from runwire_store.store import ObjectStore

AT_NS = 1_760_000_000_000_000_000
SECOND = 1_000_000_000


def entry(path: str, content: bytes) -> FileEntry:
    return FileEntry(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def manifest(number: int = 1, files: Mapping[str, bytes] | None = None, **changes: Any) -> Manifest:
    """Artifact `number` of run "r" in project "p", called "data"."""
    fields: dict[str, Any] = {
        "artifact": f"{number:032x}",
        "project": "p",
        "run_id": "r",
        "attempt": "a1",
        "writer": "w" * 32,
        "rank": 0,
        "name": "data",
        "type": "dataset",
        "created_at_ns": AT_NS + number * SECOND,
        "files": tuple(
            entry(path, content)
            for path, content in ({"a.bin": b"%d" % number} if files is None else files).items()
        ),
    }
    return Manifest(**(fields | changes))


def checkpoint(number: int, step: int, **changes: Any) -> Manifest:
    """Part `number` of a checkpoint; changes that no manifest has are facts of the checkpoint."""
    fields = set(Manifest.__slots__)
    facts = {name: changes.pop(name) for name in list(changes) if name not in fields}
    name = checkpoint_name(changes.get("project", "p"), changes.get("run_id", "r"))
    made = manifest(number, name=name, type="checkpoint", **changes)
    aliases = (f"step-{step}", *(["best"] if facts.get("is_best") else []))
    return replace(made, aliases=aliases, checkpoint=CheckpointFacts(step=step, **facts))


def put_blobs(store: ObjectStore, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        store.put(blob_key(entry(path, content).sha256), content)


def put_artifact(
    store: ObjectStore,
    number: int = 1,
    files: Mapping[str, bytes] | None = None,
    *,
    now_ns: int = 0,
    **changes: Any,
) -> Manifest:
    """Store and publish artifact `number`."""
    content = {"a.bin": b"%d" % number} if files is None else files
    put_blobs(store, content)
    made = manifest(number, content, **changes)
    return publish(store, made, now_ns=now_ns or made.created_at_ns)


def put_checkpoint(store: ObjectStore, number: int, step: int, **changes: Any) -> Manifest:
    """Store and publish part `number` of a checkpoint of run "r"."""
    put_blobs(store, {"a.bin": b"%d" % number})
    made = checkpoint(number, step, **changes)
    return publish(store, made, now_ns=made.created_at_ns)


def retire(store: ObjectStore, rules: Retention, *, now_ns: int) -> list[Manifest]:
    """Delete the manifests of run "r" that expire by the rules, and return them."""
    expired = expired_manifests(Catalog(store).checkpoints("p", "r"), rules, now_ns=now_ns)
    store.delete(manifest.key for manifest in expired)
    return expired
