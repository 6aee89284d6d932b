"""Retention rules as data, and pure functions that apply them to the checkpoints of a run.

Invariants of `expired`: without a rule nothing expires; the newest checkpoint, the newest good one
and the newest good one marked as best never expire; an incomplete checkpoint expires only if it
would if it were complete.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from runwire_schemas.errors import ConfigError
from runwire_store.checkpoints import CheckpointView, manifests_without
from runwire_store.manifest import Manifest

__all__ = [
    "MODES",
    "Retention",
    "RetentionError",
    "best_of",
    "expired",
    "expired_manifests",
    "find_checkpoint",
    "retention_of",
]

MODES: Final = ("min", "max")
# The parts of a sharded checkpoint come from several machines, each with its own queue.
PARTS_COME_FOR_NS: Final = 3_600_000_000_000


class RetentionError(ConfigError):
    """Invalid rules; the message says which one and what to write instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Keep the last `keep_last`, the best `keep_best` by `metric`, and each `keep_every`-th step.

    0 means no such rule; without any rule everything is kept. Without a metric `keep_best` counts
    the checkpoints marked as best. Raises: RetentionError.
    """

    keep_last: int = 0
    keep_best: int = 0
    metric: str = ""
    mode: str = "min"
    keep_every: int = 0

    def __post_init__(self) -> None:
        for name in ("keep_last", "keep_best", "keep_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise RetentionError(f"{name}={value!r}: give a count, 0 for no such rule")
        if self.mode not in MODES:
            raise RetentionError(f"mode={self.mode!r}: write 'min' or 'max', whichever is better")
        if not isinstance(self.metric, str):
            raise RetentionError(f"metric={self.metric!r}: give the name of a metric")

    @property
    def keeps_all(self) -> bool:
        """Whether no rule is set."""
        return not (self.keep_last or self.keep_best or self.keep_every)

    def as_json(self) -> dict[str, Any]:
        """Return the value of `CheckpointFacts.retention`; empty without a rule."""
        return {} if self == Retention() else asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the rules of `as_json`.

        Raises: RetentionError, also for rules of a newer runwire: half of them could delete more.
        """
        known = {row.name for row in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise RetentionError(
                f"retention knows no {', '.join(unknown)}: upgrade runwire; nothing is deleted"
            )
        return cls(**data)


def expired(views: Iterable[CheckpointView], retention: Retention) -> list[CheckpointView]:
    """Return the checkpoints of one run that the rules delete, oldest first."""
    known = sorted(views, key=_age)
    if retention.keeps_all:
        return []
    complete = [view for view in known if view.is_complete]
    kept = _kept_ids(complete, retention)
    gone = []
    for view in known:
        if view.is_complete:
            is_kept = id(view) in kept
        else:
            # Judged as if it were complete and good: its missing parts may still be uploading.
            is_kept = id(view) in _kept_ids([*complete, view], retention, hoped=view)
        if not is_kept:
            gone.append(view)
    return gone


def expired_manifests(
    views: Collection[CheckpointView], retention: Retention, *, now_ns: int
) -> list[Manifest]:
    """Return the manifests of a run that the rules delete now; their blobs are left to `sweep`.

    A checkpoint with missing parts is kept for at least an hour.
    """
    if retention.keeps_all:
        return []
    gone = (
        view
        for view in expired(views, retention)
        if view.is_complete or view.saved_at_ns < now_ns - PARTS_COME_FOR_NS
    )
    return manifests_without(views, gone)


def find_checkpoint(views: Iterable[CheckpointView], which: str | int) -> CheckpointView | None:
    """Return the "latest" or "best" complete checkpoint, or the newest one of a step.

    Raises: ValueError for another word.
    """
    complete = [view for view in views if view.is_complete]
    if which == "latest":
        return complete[-1] if complete else None
    if which == "best":
        return best_of(complete, retention_of(complete))
    try:
        step = operator.index(which) if not isinstance(which, str) else int(which)
    except (TypeError, ValueError):
        raise ValueError(f"{which!r}: give 'latest', 'best' or a step") from None
    return next((view for view in reversed(complete) if view.step == step), None)


def best_of(views: Iterable[CheckpointView], retention: Retention) -> CheckpointView | None:
    """Return the newest good checkpoint marked as best, else the good one with the best metric.

    None when no checkpoint is marked and `retention` names no metric that was saved.
    """
    good = [view for view in sorted(views, key=_age) if view.is_good]
    marked = [view for view in good if view.is_best]
    if marked:
        return marked[-1]
    ranked = _rank(good, retention)
    return ranked[0] if ranked else None


def retention_of(views: Iterable[CheckpointView]) -> Retention:
    """Return the rules that the newest checkpoint was saved with; no rule if unreadable."""
    newest = max(views, key=lambda view: view.saved_at_ns, default=None)
    if newest is None:
        return Retention()
    try:
        return Retention.from_json(newest.facts.retention)
    except (RetentionError, TypeError):
        return Retention()


def _kept_ids(
    known: Sequence[CheckpointView], retention: Retention, hoped: CheckpointView | None = None
) -> set[int]:
    """Return the identities of the checkpoints to keep; all of `known` count as complete."""
    known = sorted(known, key=_age)
    good = [view for view in known if view.is_good or (view is hoped and view.is_finite)]
    marked = [view for view in good if view.is_best]
    # The newest even if not good: an unmeasured metric is NaN too, and a save is never undone.
    kept = [*known[-1:], *good[-1:], *marked[-1:]]
    if retention.keep_last:
        kept += known[-retention.keep_last :]
    if retention.keep_best:
        best = _rank(good, retention) if retention.metric else marked[::-1]
        kept += best[: retention.keep_best]
    if retention.keep_every:
        kept += [view for view in known if view.step % retention.keep_every == 0]
    return {id(view) for view in kept}


def _rank(good: Sequence[CheckpointView], retention: Retention) -> list[CheckpointView]:
    """Return those with the metric, best first; of equal ones the newest first."""
    if not retention.metric:
        return []
    sign = 1.0 if retention.mode == "min" else -1.0
    measured = [view for view in reversed(good) if retention.metric in view.metrics]
    return sorted(measured, key=lambda view: sign * view.metrics[retention.metric])


def _age(view: CheckpointView) -> tuple[int, int]:
    return view.saved_at_ns, view.step
