"""Manifests of one run put together to checkpoints: which are complete, which is the best."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from runwire_store.manifest import CheckpointFacts, Manifest
from runwire_store.retention import Retention, RetentionError, best_of, is_good

__all__ = ["CheckpointView", "find", "grouped", "released", "retention_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointView:
    """One checkpoint: all ranks' parts of one step of one attempt.

    A rank that saved a step twice counts with what it saved last; `superseded` is what no
    checkpoint of this step needs any more.
    """

    step: int
    attempt: str
    manifests: Mapping[int, Manifest]
    superseded: tuple[Manifest, ...] = ()

    @property
    def first(self) -> Manifest:
        """The part of the lowest rank: its word counts where parts say different things."""
        return self.manifests[min(self.manifests)]

    @property
    def facts(self) -> CheckpointFacts:
        """What the first part says about the checkpoint."""
        facts = self.first.checkpoint
        assert facts is not None
        return facts

    @property
    def kind(self) -> str:
        """Return "full", "sharded" or "dcp"."""
        return self.facts.kind

    @property
    def is_complete(self) -> bool:
        """Whether all parts are there: of every rank when it is sharded, else of one."""
        if self.kind != "sharded":
            return True
        return sum(0 <= rank < self.world_size for rank in self.manifests) == self.world_size

    @property
    def world_size(self) -> int:
        """How many parts it has when it is sharded."""
        return self.facts.world_size

    @property
    def missing_ranks(self) -> tuple[int, ...]:
        """The first ranks, at most 20, whose part has not come."""
        if self.is_complete:
            return ()
        return tuple(islice((r for r in range(self.world_size) if r not in self.manifests), 20))

    @property
    def is_good(self) -> bool:
        """Whether it is complete and none of its metrics is NaN or infinite."""
        return is_good(self)

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


def grouped(manifests: Iterable[Manifest]) -> list[CheckpointView]:
    """Return the checkpoints of one run that these are parts of, oldest first.

    A step that was saved again is what was saved last. When that is not good and what it replaces
    was, both are there: weights must not be lost to a metric that has become NaN.
    """
    saves: dict[tuple[int, str], _Saves] = {}
    for manifest in sorted(manifests, key=lambda m: (m.created_at_ns, m.artifact)):
        if manifest.checkpoint is not None:
            place = (manifest.checkpoint.step, manifest.attempt)
            saves.setdefault(place, _Saves()).add(manifest, manifest.checkpoint.kind)
    views = [view for place, each in saves.items() for view in each.views(*place)]
    return sorted(views, key=lambda view: (view.saved_at_ns, view.step))


class _Saves:
    """What was saved at one step of one attempt; `add` in the order of time."""

    def __init__(self) -> None:
        self._kind = ""
        self._newest: dict[int, Manifest] = {}
        self._good: dict[int, Manifest] = {}  # the last that was good when it was saved again
        self._all: list[Manifest] = []

    def add(self, manifest: Manifest, kind: str) -> None:
        # One part is the whole: whoever saved last, whatever its rank.
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


def released(known: Collection[CheckpointView], gone: Iterable[CheckpointView]) -> list[Manifest]:
    """Return the manifests that go with the checkpoints `gone`, and what was saved again.

    What was saved again is never loaded, so no rule keeps it; yet it stays until something good has
    come after it, for its missing parts may be on their way. Parts that a checkpoint needs which
    stays do not go.
    """
    leaving = {id(view) for view in gone}
    good_ns = max((view.saved_at_ns for view in known if view.is_good), default=0)
    stays = {m.artifact for v in known if id(v) not in leaving for m in v.manifests.values()}
    found: dict[str, Manifest] = {}
    for view in known:
        goes = [m for m in view.superseded if m.created_at_ns < good_ns or not _is_finite(m)]
        goes += view.manifests.values() if id(view) in leaving else ()
        found |= {m.artifact: m for m in goes if m.artifact not in stays}
    return list(found.values())


def _is_finite(manifest: Manifest) -> bool:
    facts = manifest.checkpoint
    return facts is not None and all(map(math.isfinite, facts.metrics.values()))


def find(known: Iterable[CheckpointView], which: str | int) -> CheckpointView | None:
    """Return the "latest" or "best" complete checkpoint, or the newest one of a step.

    Raises: ValueError for another word.
    """
    complete = [view for view in known if view.is_complete]
    if which == "latest":
        return complete[-1] if complete else None
    if which == "best":
        return best_of(complete, retention_of(complete))
    try:
        step = operator.index(which) if not isinstance(which, str) else int(which)
    except (TypeError, ValueError):
        raise ValueError(f"{which!r}: ask for 'latest', 'best' or a step") from None
    return next((view for view in reversed(complete) if view.step == step), None)


def retention_of(known: Iterable[CheckpointView]) -> Retention:
    """Return the rules that the newest checkpoint was saved with; none when they are unreadable."""
    newest = max(known, key=lambda view: view.saved_at_ns, default=None)
    if newest is None:
        return Retention()
    try:
        return Retention.from_json(newest.facts.retention)
    except (RetentionError, TypeError):
        return Retention()
