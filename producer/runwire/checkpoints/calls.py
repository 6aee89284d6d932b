"""The calls of a run that save, log and load checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runwire.conversion import ANY, FLAG, STEP_OR_TEXT, TEXT
from runwire.errors import CheckpointError
from runwire.guard import public_call
from runwire.session import SessionCalls

if TYPE_CHECKING:
    from runwire.checkpoints.loading import Checkpoint
    from runwire.checkpoints.saver import Saved
    from runwire.outbox.ref import ArtifactRef
    from runwire_store.retention import Retention

_log = logging.getLogger("runwire")


class CheckpointCalls(SessionCalls):
    """The part of `Run` that saves and loads checkpoints. Threads: safe."""

    @public_call(
        step=ANY,
        model=ANY,
        optimizer=ANY,
        scheduler=ANY,
        extra=ANY,
        metrics=ANY,
        is_best=FLAG,
        asynchronous=FLAG,
        kind=TEXT,
        retention=ANY,
    )
    def save_checkpoint(  # noqa: PLR0913 - one call takes all that belongs to a checkpoint
        self,
        step: int,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        extra: Any = None,
        metrics: Mapping[str, Any] | None = None,
        is_best: bool = False,
        asynchronous: bool = False,
        kind: str = "full",
        retention: Retention | Mapping[str, Any] | None = None,
    ) -> Saved:
        """Save states and random generators as a checkpoint, complete on disk or not there.

        `model`, `optimizer`, `scheduler` are objects with state_dict(), state dicts, or mappings
        and lists of such. "full" is saved by rank 0 alone, "sharded" by every rank its own part.
        Blocks: until it is on the disk; `asynchronous`: for a copy to CPU memory, then a thread
        writes, and the next call reports its failure. Raises: nothing, unless strict.
        """
        from runwire.checkpoints.saver import Saved, Saver
        from runwire.checkpoints.wishes import Wishes, check_metrics, check_rules

        report = self.guard.report
        try:
            wishes = Wishes(
                kind=kind,
                metrics=check_metrics(metrics, report),
                is_best=bool(is_best),
                asynchronous=asynchronous,
                retention=check_rules(retention, report),
            )
            objects = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
            return self._session.part(Saver).save(step, objects, extra, wishes)
        except Exception as error:
            self.guard.report_loss("save_checkpoint", _checkpoint(step), error)
            return Saved.not_here(-1, str(error))

    @public_call(path=ANY, step=ANY, kind=TEXT, metrics=ANY, is_best=FLAG, retention=ANY)
    def log_checkpoint(
        self,
        path: str | PathLike[str],
        step: int,
        *,
        kind: str = "full",
        metrics: Mapping[str, Any] | None = None,
        is_best: bool = False,
        retention: Retention | Mapping[str, Any] | None = None,
    ) -> ArtifactRef:
        """Log a file or folder that another tool wrote as a checkpoint of this run.

        "full" is from one rank alone, "dcp" a folder of torch.distributed.checkpoint logged by one
        rank when all have written, "sharded" each rank's own part. The content is captured now;
        the files stay where they are and are never deleted. Raises: nothing, unless strict.
        """
        from runwire.checkpoints.foreign import log_foreign
        from runwire.checkpoints.saver import Saver
        from runwire.checkpoints.wishes import Wishes, check_metrics, check_rules
        from runwire.outbox.ref import refused

        report = self.guard.report
        try:
            wishes = Wishes(
                kind=kind,
                metrics=check_metrics(metrics, report),
                is_best=bool(is_best),
                retention=check_rules(retention, report),
            )
            saver = self._session.part(Saver)
            return log_foreign(self._session, saver, Path(path), step=step, wishes=wishes)
        except Exception as error:
            self.guard.report_loss("log_checkpoint", _checkpoint(step), error)
            return refused()

    @public_call(
        raises=True,
        error=CheckpointError,
        which=STEP_OR_TEXT,
        model=ANY,
        optimizer=ANY,
        scheduler=ANY,
        strict=FLAG,
        map_location=ANY,
        resume=FLAG,
        run_id=TEXT,
    )
    def load_checkpoint(
        self,
        which: str | int = "latest",
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        strict: bool = True,
        map_location: Any = None,
        resume: bool | None = None,
        run_id: str | None = None,
    ) -> Checkpoint | None:
        """Load the "latest" or "best" checkpoint, None when there is none yet, or that of a step.

        With an `optimizer`, or `resume=True`, the run continues from it: random generators, the
        step of the next `log` without one, and the mark that later points of earlier attempts are
        abandoned. `run_id` names another run of this project to start from.
        Raises: CheckpointError, also for a run that is not known, and when it is unknown whether
        there is a checkpoint; torch's own error for states that do not fit. Blocks: reads it twice,
        the first time for its SHA-256.
        """
        from runwire.checkpoints.finding import finder_for
        from runwire.checkpoints.loading import load
        from runwire.checkpoints.saver import Saver

        session = self._session
        saver = session.part(Saver)
        saver.settle()
        objects = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
        is_own = run_id is None or run_id == session.meta.run_id
        resumes = is_own and (optimizer is not None if resume is None else resume)
        with finder_for(session, saver.local, run_id) as finder:
            loaded = load(finder, which, objects, strict=strict, map_location=map_location)
        if loaded is None:
            return None
        checkpoint = loaded.checkpoint
        if resumes:
            from runwire.checkpoints.random_states import restore_rng

            saver.follow(checkpoint.saved_at_ns)
            for problem in restore_rng(loaded.rng):
                _log.warning("runwire: resuming from step %d: %s", checkpoint.step, problem)
            session.resume_from(checkpoint.step)
        if not is_own:
            session.emit("artifact", loaded.used_fields())
        return checkpoint


def _checkpoint(step: object) -> str:
    """Return the name of a checkpoint in messages, whatever was given as its step."""
    try:
        return f"the checkpoint of step {step!s:.100}"
    except Exception:  # objects of users may do anything
        return f"the checkpoint of a step that is a {type(step).__name__}"
