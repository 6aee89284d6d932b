"""Retention on this disk, after each save; the agent and the object worker do it in the store.

Files that others wrote are never touched: of those only our note about them goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runwire.checkpoints.local import LocalCheckpoints, LocalPart
from runwire_store.checkpoints import CheckpointView, group_checkpoints, manifests_without
from runwire_store.manifest import Manifest
from runwire_store.retention import Retention, expired

__all__ = ["prune"]

# Ranks are at most one save apart, so two back there is one that all of them have.
_APART = 2


def prune(local: LocalCheckpoints, saved: LocalPart, retention: Retention) -> list[LocalPart]:
    """Delete what the rules let go now that `saved` is there; return it. Raises: OSError."""
    if retention.keeps_all:
        return []
    parts = local.parts()
    views = group_checkpoints(part.manifest for part in parts)
    facts = saved.manifest.checkpoint
    assert facts is not None
    if facts.kind == "sharded" and not any(v.is_complete for v in views if v.kind == "sharded"):
        gone = _own_expired(parts, saved.manifest.rank, retention)
    else:
        folders = {part.manifest.artifact: part for part in parts}
        leaving = manifests_without(views, expired(views, retention))
        gone = [folders[manifest.artifact] for manifest in leaving]
    for part in gone:
        local.remove(part)
    return gone


def _own_expired(parts: Sequence[LocalPart], rank: int, retention: Retention) -> list[LocalPart]:
    """Return this rank's expired parts; the other ranks' disks cannot be seen."""
    own = {part.manifest.artifact: part for part in parts if part.manifest.rank == rank}
    views = [view for part in own.values() if (view := _as_complete(part.manifest)) is not None]
    rules = replace(retention, keep_last=max(retention.keep_last, _APART))
    return [own[view.first.artifact] for view in expired(views, rules)]


def _as_complete(manifest: Manifest) -> CheckpointView | None:
    """Return a part as a checkpoint of its own, complete without the other ranks."""
    if manifest.checkpoint is None:
        return None
    whole = replace(manifest, checkpoint=replace(manifest.checkpoint, kind="full"))
    step = manifest.checkpoint.step
    return CheckpointView(step=step, attempt=manifest.attempt, manifests={manifest.rank: whole})
