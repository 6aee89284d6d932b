"""Checkpoints of one run, assembled from the manifests of all ranks and saves."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from runwire_store.manifest import CheckpointFacts, Manifest

__all__ = ["CheckpointView", "group_checkpoints", "manifests_without"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointView:
    """One checkpoint: all ranks' parts of one step of one attempt.

    Of a rank that saved a step twice the last save counts; `superseded` are the manifests that no
    checkpoint of this step needs any more.
    """

    step: int
    attempt: str
    manifests: Mapping[int, Manifest]
    superseded: tuple[Manifest, ...] = ()

    @property
    def first(self) -> Manifest:
        """The part of the lowest rank; it decides where the facts of parts differ."""
        return self.manifests[min(self.manifests)]

    @property
    def facts(self) -> CheckpointFacts:
        """Facts of the checkpoint, from its first part."""
        facts = self.first.checkpoint
        assert facts is not None
        return facts

    @property
    def kind(self) -> str:
        """Return "full", "sharded" or "dcp"."""
        return self.facts.kind

    @property
    def is_complete(self) -> bool:
        """Whether all parts exist: one of every rank if sharded, else one."""
        if self.kind != "sharded":
            return True
        return sum(0 <= rank < self.world_size for rank in self.manifests) == self.world_size

    @property
    def world_size(self) -> int:
        """Number of parts if it is sharded."""
        return self.facts.world_size

    @property
    def missing_ranks(self) -> tuple[int, ...]:
        """Ranks whose part is missing, at most the first 20."""
        if self.is_complete:
            return ()
        return tuple(islice((r for r in range(self.world_size) if r not in self.manifests), 20))

    @property
    def is_good(self) -> bool:
        """Whether it is complete and none of its metrics is NaN or infinite."""
        return self.is_complete and self.is_finite

    @property
    def is_finite(self) -> bool:
        """Whether none of its metrics is NaN or infinite."""
        return _is_finite(self.facts)

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics that were saved with it."""
        return self.facts.metrics

    @property
    def is_best(self) -> bool:
        """Whether it was marked as the best when it was saved."""
        return any(m.checkpoint is not None and m.checkpoint.is_best for m in self._parts)

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(manifest.size for manifest in self._parts)

    @property
    def saved_at_ns(self) -> int:
        """When the last part was saved, by the trainer's clock."""
        return max(manifest.created_at_ns for manifest in self._parts)

    @property
    def _parts(self) -> Iterable[Manifest]:
        return self.manifests.values()


def group_checkpoints(manifests: Iterable[Manifest]) -> list[CheckpointView]:
    """Return the checkpoints that these manifests of one run are parts of, oldest first.

    Of a step that was saved again the last save counts. If that is not good but the replaced save
    was, both are returned: weights must not be lost to a metric that has become NaN.
    """
    saves: dict[tuple[int, str], _Saves] = {}
    for manifest in sorted(manifests, key=lambda m: (m.created_at_ns, m.artifact)):
        if manifest.checkpoint is not None:
            place = (manifest.checkpoint.step, manifest.attempt)
            saves.setdefault(place, _Saves()).add(manifest, manifest.checkpoint.kind)
    views = [view for place, all_saves in saves.items() for view in all_saves.views(*place)]
    return sorted(views, key=lambda view: (view.saved_at_ns, view.step))


class _Saves:
    """All saves of one step of one attempt; call `add` in the order of time."""

    def __init__(self) -> None:
        self._kind = ""
        self._newest: dict[int, Manifest] = {}
        self._good: dict[int, Manifest] = {}  # the last that was good when it was saved again
        self._all: list[Manifest] = []

    def add(self, manifest: Manifest, kind: str) -> None:
        # A full checkpoint has one part; if several ranks saved it, the latest wins.
        is_whole = kind != "sharded" or kind != self._kind
        if self._newest and (is_whole or manifest.rank in self._newest):
            if _view(self._newest).is_good:
                self._good = dict(self._newest)
            if is_whole:
                self._newest.clear()
        self._kind = kind
        self._newest[manifest.rank] = manifest
        self._all.append(manifest)

    def views(self, step: int, attempt: str) -> list[CheckpointView]:
        newest = _view(self._newest)
        earlier = [] if newest.is_good or not self._good else [_view(self._good)]
        used = {m.artifact for view in (newest, *earlier) for m in view.manifests.values()}
        superseded = tuple(m for m in self._all if m.artifact not in used)
        return [*earlier, replace(newest, superseded=superseded)]


def _view(manifests: Mapping[int, Manifest]) -> CheckpointView:
    some = next(iter(manifests.values()))
    assert some.checkpoint is not None
    return CheckpointView(step=some.checkpoint.step, attempt=some.attempt, manifests=manifests)


def manifests_without(
    views: Collection[CheckpointView], gone: Iterable[CheckpointView]
) -> list[Manifest]:
    """Return the manifests that nothing needs without the checkpoints `gone`.

    Superseded manifests are among them. They are never loaded, so no rule keeps them, but finite
    ones stay until a good checkpoint was saved later: their missing parts may still be uploading.
    A part that another checkpoint needs stays.
    """
    gone_ids = {id(view) for view in gone}
    good_ns = max((view.saved_at_ns for view in views if view.is_good), default=0)
    needed = {m.artifact for v in views if id(v) not in gone_ids for m in v.manifests.values()}
    unneeded: dict[str, Manifest] = {}
    for view in views:
        candidates = [
            manifest
            for manifest in view.superseded
            if manifest.created_at_ns < good_ns or not _is_finite(manifest.checkpoint)
        ]
        candidates += view.manifests.values() if id(view) in gone_ids else ()
        unneeded |= {m.artifact: m for m in candidates if m.artifact not in needed}
    return list(unneeded.values())


def _is_finite(facts: CheckpointFacts | None) -> bool:
    return facts is not None and all(map(math.isfinite, facts.metrics.values()))
