"""Retention on this disk, after each save; the agent and the object worker do it in the store.

Files that others wrote are never touched: of those only our note about them goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from runwire.checkpoints.local import LocalCheckpoints, LocalPart
from runwire_store.checkpoints import grouped, released
from runwire_store.retention import Retention, expired

__all__ = ["prune"]

# Ranks are at most one save apart, so two back there is one that all of them have.
_APART = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _OwnPart:
    """This rank's part, judged by itself because the other ranks' disks cannot be seen."""

    step: int
    saved_at_ns: int
    is_best: bool
    metrics: Mapping[str, float]
    part: LocalPart
    is_complete: bool = True


def prune(local: LocalCheckpoints, saved: LocalPart, retention: Retention) -> list[LocalPart]:
    """Delete what the rules let go now that `saved` is there; return it. Raises: OSError."""
    if retention.keeps_all:
        return []
    parts = local.parts()
    views = grouped(part.manifest for part in parts)
    facts = saved.manifest.checkpoint
    assert facts is not None
    if facts.kind == "sharded" and not any(v.is_complete for v in views if v.kind == "sharded"):
        gone = _own_expired(parts, saved.manifest.rank, retention)
    else:
        folders = {part.manifest.artifact: part for part in parts}
        leaving = released(views, expired(views, retention))
        gone = [folders[manifest.artifact] for manifest in leaving]
    for part in gone:
        local.remove(part)
    return gone


def _own_expired(parts: Sequence[LocalPart], rank: int, retention: Retention) -> list[LocalPart]:
    own = [
        _OwnPart(
            step=facts.step,
            saved_at_ns=part.manifest.created_at_ns,
            is_best=facts.is_best,
            metrics=facts.metrics,
            part=part,
        )
        for part in parts
        if part.manifest.rank == rank and (facts := part.manifest.checkpoint) is not None
    ]
    rules = replace(retention, keep_last=max(retention.keep_last, _APART))
    return [each.part for each in expired(own, rules)]
