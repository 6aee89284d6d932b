"""Which checkpoints go: rules as data, and one pure function that local folders and stores share.

Invariants of `expired`: with no rule nothing goes; the newest checkpoint, the newest good one and
the newest good one that was marked as best always stay; what is incomplete stays while it could
still be kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Protocol, Self, TypeVar

from runwire_schemas.errors import ConfigError
from runwire_store.manifest import Manifest
from runwire_store.store import ObjectStore

__all__ = [
    "MODES",
    "Kept",
    "Retention",
    "RetentionError",
    "best_of",
    "expired",
    "is_good",
    "leaving",
]

MODES: Final = ("min", "max")
# The parts of a sharded checkpoint come from several machines, each with its own queue.
PARTS_COME_FOR_NS: Final = 3_600_000_000_000


class RetentionError(ConfigError):
    """Rules that cannot be followed; the message says which and what to write instead."""


class Kept(Protocol):
    """What the rules look at: a checkpoint in a store or in a folder."""

    @property
    def step(self) -> int:
        """Training step it was saved at."""
        ...

    @property
    def saved_at_ns(self) -> int:
        """When it was saved: newer ones have greater numbers."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether all parts are there."""
        ...

    @property
    def is_best(self) -> bool:
        """Whether it was marked as the best when it was saved."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics that were saved with it."""
        ...


_K = TypeVar("_K", bound=Kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Keep the last `keep_last`, the best `keep_best` by `metric`, and each `keep_every`-th step.

    0 means that there is no such rule, and no rule at all keeps everything. Without a metric
    `keep_best` counts those marked as best. Raises: RetentionError.
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
        """Whether there is no rule."""
        return not (self.keep_last or self.keep_best or self.keep_every)

    def as_json(self) -> dict[str, Any]:
        """Return what `CheckpointFacts.retention` holds; empty when there is no rule."""
        return {} if self == Retention() else asdict(self)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """Return the rules again.

        Raises: RetentionError also for rules of a newer runwire: half of them could delete more.
        """
        known = {row.name for row in fields(cls)}
        if unknown := sorted(set(said) - known):
            raise RetentionError(
                f"retention knows no {', '.join(unknown)}: upgrade runwire; nothing is deleted"
            )
        return cls(**said)


def is_good(checkpoint: Kept) -> bool:
    """Return whether it is worth loading: complete, and none of its metrics is NaN or infinite."""
    return checkpoint.is_complete and all(map(math.isfinite, checkpoint.metrics.values()))


def expired(checkpoints: Iterable[_K], retention: Retention) -> list[_K]:
    """Return the checkpoints of one run that the rules let go, oldest first."""
    known = sorted(checkpoints, key=_age)
    if retention.keeps_all:
        return []
    complete = [each for each in known if each.is_complete]
    stay = _ruled(complete, retention)
    gone = []
    for each in known:
        if each.is_complete:
            is_kept = id(each) in stay
        else:
            # Judged as if its missing parts had come; no newer good one: it may be on its way.
            is_kept = id(each) in _ruled([*complete, each], retention, hoped=each)
        if not is_kept:
            gone.append(each)
    return gone


def leaving(
    store: ObjectStore, project: str, run_id: str, retention: Retention, *, now_ns: int
) -> list[Manifest]:
    """Return the manifests that the rules let go now; their blobs are for `sweep`.

    What misses parts goes only when it is an hour old. Raises: StoreAway, StoreRefused.
    """
    # Both need the rules above.
    from runwire_store.catalog import Catalog
    from runwire_store.checkpoints import released

    if retention.keeps_all:
        return []
    known = Catalog(store).checkpoints(project, run_id)
    gone = (
        view
        for view in expired(known, retention)
        if view.is_complete or view.saved_at_ns < now_ns - PARTS_COME_FOR_NS
    )
    return released(known, gone)


def best_of(checkpoints: Iterable[_K], retention: Retention) -> _K | None:
    """Return the newest good one marked as best, else the good one with the best metric.

    None when neither is known: nothing is marked, and `retention` names no metric.
    """
    good = [each for each in sorted(checkpoints, key=_age) if is_good(each)]
    marked = [each for each in good if each.is_best]
    if marked:
        return marked[-1]
    ranked = _ranked(good, retention)
    return ranked[0] if ranked else None


def _ruled(known: Sequence[_K], retention: Retention, hoped: _K | None = None) -> set[int]:
    """Identities of those that stay; `known` counts as complete."""
    known = sorted(known, key=_age)
    good = [each for each in known if is_good(each) or (each is hoped and _is_finite(each))]
    marked = [each for each in good if each.is_best]
    # The newest in any case: a metric that was not measured is NaN too, and a save is never undone.
    stay: list[_K] = [*known[-1:], *good[-1:], *marked[-1:]]
    if retention.keep_last:
        stay += known[-retention.keep_last :]
    if retention.keep_best:
        best = _ranked(good, retention) if retention.metric else marked[::-1]
        stay += best[: retention.keep_best]
    if retention.keep_every:
        stay += [each for each in known if each.step % retention.keep_every == 0]
    return {id(each) for each in stay}


def _ranked(good: Sequence[_K], retention: Retention) -> list[_K]:
    """Best first; of equal ones the newest first."""
    if not retention.metric:
        return []
    sign = 1.0 if retention.mode == "min" else -1.0
    measured = [each for each in reversed(good) if retention.metric in each.metrics]
    return sorted(measured, key=lambda each: sign * each.metrics[retention.metric])


def _is_finite(checkpoint: Kept) -> bool:
    return all(map(math.isfinite, checkpoint.metrics.values()))


def _age(checkpoint: Kept) -> tuple[int, int]:
    return checkpoint.saved_at_ns, checkpoint.step
