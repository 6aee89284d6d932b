"""Loading for a run: the first whole candidate goes into the objects, damaged ones are told."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runwire.checkpoints.finding import Finder
from runwire.checkpoints.loading import Checkpoint, loaded, restore
from runwire.checkpoints.local import LocalCheckpoints
from runwire.checkpoints.saver import Saver, checkpoint_dir
from runwire.checkpoints.state_file import FORMAT
from runwire.checkpoints.verifying import DamagedCheckpoint, Found
from runwire.errors import CheckpointError, ConfigError
from runwire.job.ranks import detect_ranks

if TYPE_CHECKING:
    from runwire.session import Session
    from runwire_store.checkpoints import CheckpointView

__all__ = ["finder_for", "load"]

_log = logging.getLogger("runwire")


def finder_for(session: Session, saver: Saver, run_id: str | None) -> Finder:
    """Return who looks for checkpoints of this run, or of another of its project."""
    meta, settings = session.meta, session.settings
    spans_disks = settings.checkpoint_dir is None and _spans_nodes()
    if settings.s3_endpoint is None and spans_disks:
        _log.warning(
            "runwire: this job spans several nodes, which cannot see each other's checkpoints: "
            "set RUNWIRE_CHECKPOINT_DIR to a folder that all of them share, or RUNWIRE_S3_ENDPOINT"
        )
    wanted = run_id or meta.run_id
    local = saver.local
    if wanted != meta.run_id:
        local = LocalCheckpoints(checkpoint_dir(settings), meta.project, wanted)
    return Finder(
        settings=settings,
        local=local,
        project=meta.project,
        run_id=wanted,
        rank=meta.rank,
        world_size=meta.world_size,
        only_stored=spans_disks and settings.s3_endpoint is not None,
    )


def load(
    finder: Finder,
    which: str | int,
    wanted: Mapping[str, Any],
    *,
    strict: bool,
    map_location: Any,
) -> tuple[Found, Checkpoint, Mapping[str, Any]] | None:
    """Return what was found, loaded, and its random states; None when the run has none.

    Raises: CheckpointError; what torch raises for states that do not fit.
    """
    found = _first_whole(finder, which)
    if found is None:
        return None
    facts = found.manifest.checkpoint
    assert facts is not None
    content = loaded(found, wanted, map_location=map_location)
    left = restore(content, wanted, step=facts.step, strict=strict)
    checkpoint = Checkpoint(
        step=facts.step,
        path=found.path,
        metrics=dict(facts.metrics),
        extra=content.get("extra"),
        state=left,
        run_id=found.manifest.run_id,
        attempt=found.manifest.attempt,
        artifact=found.manifest.artifact,
        kind=facts.kind,
        is_best=facts.is_best,
        saved_at_ns=found.manifest.created_at_ns,
    )
    # In a file of others the word may mean anything.
    rng = content.get("rng") if content.get("runwire") == FORMAT else None
    return found, checkpoint, rng if isinstance(rng, Mapping) else {}


def _spans_nodes() -> bool:
    try:
        return not detect_ranks().one_node
    except ConfigError:
        return False


def _first_whole(finder: Finder, which: str | int) -> Found | None:
    candidates = finder.candidates(which)
    problems: list[str] = []
    for at, view in enumerate(candidates):
        try:
            found = finder.bring(view)
        except DamagedCheckpoint as error:
            if view.kind == "sharded" or finder.only_stored:
                words = _not_alone(finder.rank, view, candidates[at + 1 :], error)
                raise CheckpointError(words) from error
            problems.append(str(error))
            continue
        for problem in problems:
            _log.warning(
                "runwire: %s. An earlier checkpoint is loaded instead, that of step %d",
                problem,
                view.step,
            )
        return found
    if not candidates:
        return None
    raise CheckpointError(
        f"run {finder.run_id!r}: no checkpoint {which!r} can be loaded. " + ". ".join(problems)
    )


def _not_alone(
    rank: int, view: CheckpointView, earlier: Sequence[CheckpointView], error: DamagedCheckpoint
) -> str:
    """Say why no rank goes back alone: the others would train on from another step, silently."""
    steps = (each.step for each in earlier if each.step != view.step)
    step = next(steps, None)
    advice = "name an earlier step" if step is None else f"call load_checkpoint({step})"
    what = "part" if view.kind == "sharded" else "copy"
    return (
        f"the {what} of rank {rank} of checkpoint {view.step} cannot be used: {error}. Other ranks "
        f"may have theirs whole, so this one does not go back alone: {advice} on all ranks"
    )
