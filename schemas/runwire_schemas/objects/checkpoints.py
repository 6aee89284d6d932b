"""Manifests of one run put together to checkpoints: which are complete, which is the best."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from runwire_schemas.objects.manifest import CheckpointFacts, Manifest
from runwire_schemas.objects.retention import Retention, RetentionError, best_of, is_good

__all__ = ["CheckpointView", "find", "grouped", "retention_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointView:
    """One checkpoint: all ranks' parts of one step of one attempt.

    A rank that saved a step twice counts with what it saved last; `superseded` are the others.
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
    """Return the checkpoints of one run that these are parts of, oldest first."""
    parts: dict[tuple[int, str], dict[int, Manifest]] = {}
    superseded: dict[tuple[int, str], list[Manifest]] = {}
    for manifest in sorted(manifests, key=lambda m: (m.created_at_ns, m.artifact)):
        if manifest.checkpoint is None:
            continue
        place = (manifest.checkpoint.step, manifest.attempt)
        ranks = parts.setdefault(place, {})
        kind = next((m.checkpoint.kind for m in ranks.values() if m.checkpoint), "")
        if kind != manifest.checkpoint.kind or kind != "sharded":
            # One part is the whole: whoever saved last, whatever its rank.
            superseded.setdefault(place, []).extend(ranks.values())
            ranks.clear()
        elif manifest.rank in ranks:
            superseded.setdefault(place, []).append(ranks[manifest.rank])
        ranks[manifest.rank] = manifest
    views = [
        CheckpointView(
            step=step,
            attempt=attempt,
            manifests=ranks,
            superseded=tuple(superseded.get((step, attempt), ())),
        )
        for (step, attempt), ranks in parts.items()
    ]
    return sorted(views, key=lambda view: (view.saved_at_ns, view.step))


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
