"""Wishes about a checkpoint: the arguments of a call besides the content, checked.

A mistake in one of them is reported and must not cost the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runwire.conversion import whole_step
from runwire.errors import CheckpointError
from runwire.metrics.values import Unloggable, to_float
from runwire_store.retention import Retention, RetentionError

if TYPE_CHECKING:
    from runwire.settings import Settings

__all__ = ["Wishes", "check_metrics", "check_rules", "check_step"]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The arguments of a call besides the content, checked where a mistake must not cost it."""

    kind: str = "full"
    metrics: Mapping[str, float] = field(default_factory=dict)
    is_best: bool = False
    asynchronous: bool = False
    retention: Retention | None = None

    def rules(self, settings: Settings) -> Retention:
        """Return the retention rules of the call, else those of the settings."""
        if self.retention is not None:
            return self.retention
        return Retention(
            keep_last=settings.checkpoint_keep_last,
            keep_best=settings.checkpoint_keep_best,
            metric=settings.checkpoint_metric or "",
            mode=settings.checkpoint_mode,
            keep_every=settings.checkpoint_keep_every,
        )


def check_step(step: Any) -> int:
    """Return a step as int. Raises: CheckpointError unless it is a whole number from 0 on."""
    try:
        whole = whole_step(step)
    except TypeError as error:
        raise CheckpointError(f"checkpoint: {error}") from None
    if whole is None or not 0 <= whole < 2**63:
        raise CheckpointError(f"step={step!r}: the step of a checkpoint is at least 0")
    return whole


def check_rules(retention: Any, report: Callable[[str, BaseException], None]) -> Retention | None:
    """Return the rules of a call, None for those of the settings.

    Invalid rules are reported, and then nothing is deleted: the checkpoint matters more.
    """
    if retention is None or isinstance(retention, Retention):
        return retention
    write = "write retention=runwire.Retention(keep_last=3), with keep_best, metric, keep_every"
    problem: Exception
    try:
        if isinstance(retention, Mapping):
            return Retention(**retention)
        problem = TypeError(f"retention={retention!r:.100}: {write}")
    except (RetentionError, TypeError) as error:
        problem = type(error)(f"retention={dict(retention)!r:.100}: {error}; {write}")
    report("retention of a checkpoint", problem)
    return Retention()


def check_metrics(
    metrics: Mapping[str, Any] | None, report: Callable[[str, BaseException], None]
) -> dict[str, float]:
    """Return metrics as floats; values that are not numbers are reported and left out."""
    numbers: dict[str, float] = {}
    if not isinstance(metrics, Mapping):
        if metrics is not None:
            problem = TypeError(f"metrics={metrics!r:.100}: give a mapping of names to numbers")
            report("metrics of a checkpoint", problem)
        return numbers
    for name, value in metrics.items():
        try:
            numbers[str(name)] = to_float(value)
        except (Unloggable, OverflowError) as error:
            report("metric of a checkpoint", type(error)(f"{name!r}: {error}"))
    return numbers
