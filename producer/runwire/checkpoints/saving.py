"""From the arguments of a call to a job for the saver."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from runwire.checkpoints.rng import capture_rng
from runwire.checkpoints.saver import Job, Saved, Saver
from runwire.checkpoints.snapshot import Snapshot, check_collective, state_of
from runwire.checkpoints.state_file import import_torch
from runwire.errors import CheckpointError
from runwire.metrics.values import Unloggable, to_float, whole_step
from runwire_store.manifest import KINDS, CheckpointFacts
from runwire_store.retention import Retention, RetentionError

if TYPE_CHECKING:
    from runwire.session import Session
    from runwire.settings import Settings

__all__ = [
    "How",
    "checked_step",
    "checked_kind",
    "facts_of",
    "numbers",
    "retention_of",
    "rules",
    "save",
]


@dataclass(frozen=True, kw_only=True)
class How:
    """What a call says about a checkpoint besides its content."""

    kind: str = "full"
    metrics: Mapping[str, float] = field(default_factory=dict)
    is_best: bool = False
    asynchronous: bool = False
    retention: Retention | None = None


def save(
    session: Session, saver: Saver, step: int, objects: Mapping[str, Any], *, extra: Any, how: How
) -> Saved:
    """Save now or later. Raises: CheckpointError, OSError."""
    began = time.monotonic()
    saver.wait()
    step = checked_step(step)
    if how.kind not in ("full", "sharded"):
        raise CheckpointError(
            f"save_checkpoint(kind={how.kind!r}): it is 'full' or 'sharded'; what others wrote "
            "goes to log_checkpoint"
        )
    if how.kind == "full" and session.meta.rank != 0:
        return Saved.not_here(step)
    import_torch()
    if how.kind == "full" and session.meta.world_size > 1:
        for name, thing in objects.items():
            check_collective(thing, name)
    facts = facts_of(session, saver, step, how)
    snapshot = Snapshot(copy=how.asynchronous)
    generators, problems = capture_rng()
    for problem in problems:
        saver.report("random states of a checkpoint", CheckpointError(problem))
    state = {
        "step": step,
        "metrics": dict(facts.metrics),
        "extra": snapshot.take(state_of(extra, "extra"), "extra"),
        "rng": generators,
        **{
            name: snapshot.take(state_of(thing, name), name)
            for name, thing in objects.items()
            if thing is not None
        },
    }
    retention = retention_of(session.settings, how)
    if how.asynchronous:
        facts = replace(facts, blocked_s=time.monotonic() - began)
        return saver.save_later(Job(facts=facts, state=state, began=began, retention=retention))
    return saver.save(Job(facts=facts, state=state, began=began, retention=retention))


def facts_of(session: Session, saver: Saver, step: int, how: How) -> CheckpointFacts:
    """Return what is known of a checkpoint before it is written."""
    metrics, is_best = saver.said(step, how.metrics, is_best=how.is_best)
    return CheckpointFacts(
        step=step,
        kind=how.kind,
        world_size=session.meta.world_size if how.kind == "sharded" else 1,
        metrics=metrics,
        is_best=is_best,
        retention=retention_of(session.settings, how).as_json(),
    )


def retention_of(settings: Settings, how: How) -> Retention:
    """Return the rules of the call, else those of the settings."""
    if how.retention is not None:
        return how.retention
    return Retention(
        keep_last=settings.checkpoint_keep_last,
        keep_best=settings.checkpoint_keep_best,
        metric=settings.checkpoint_metric or "",
        mode=settings.checkpoint_mode,
        keep_every=settings.checkpoint_keep_every,
    )


def rules(retention: Any, report: Callable[[str, BaseException], None]) -> Retention | None:
    """Return the rules of a call, None for those of the settings.

    Rules that cannot be followed are reported, and then nothing is deleted: the checkpoint counts.
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


def checked_step(step: Any) -> int:
    """Return a step as int. Raises: CheckpointError unless it is a whole number from 0 on."""
    try:
        whole = whole_step(step)
    except Unloggable as error:
        raise CheckpointError(f"checkpoint: {error}") from None
    if whole is None or not 0 <= whole < 2**63:
        raise CheckpointError(f"step={step!r}: a checkpoint has a step from 0 on")
    return whole


def checked_kind(kind: str) -> str:
    """Return a kind. Raises: CheckpointError for another word."""
    if kind not in KINDS:
        raise CheckpointError(f"kind={kind!r}: it is one of {', '.join(KINDS)}")
    return kind


def numbers(
    metrics: Mapping[str, Any] | None, report: Callable[[str, BaseException], None]
) -> dict[str, float]:
    """Return metrics as floats; what is no number is reported and left out."""
    found: dict[str, float] = {}
    if not isinstance(metrics, Mapping):
        if metrics is not None:
            problem = TypeError(f"metrics={metrics!r:.100}: give a mapping of names to numbers")
            report("metrics of a checkpoint", problem)
        return found
    for name, value in metrics.items():
        try:
            found[str(name)] = to_float(value)
        except (Unloggable, OverflowError) as error:
            report("metric of a checkpoint", type(error)(f"{name!r}: {error}"))
    return found
