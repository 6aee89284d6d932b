"""What a run offers for checkpoints."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runwire.guard import Guard

if TYPE_CHECKING:
    from runwire.artifacts.ref import ArtifactRef
    from runwire.checkpoints.loading import Checkpoint
    from runwire.checkpoints.saver import Saved, Saver
    from runwire.checkpoints.verifying import Found
    from runwire.session import Session
    from runwire_store.retention import Retention

_log = logging.getLogger("runwire")
# Reentrant: a signal handler that saves may interrupt a save of its own thread.
_making = threading.RLock()


class CheckpointCalls:
    """The part of `Run` that saves and loads checkpoints. Threads: safe."""

    guard: Guard
    _session: Session
    _checkpoint_saver: Saver | None = None
    _has_resumed = False

    def save_checkpoint(  # noqa: PLR0913 - one call says all that belongs to a checkpoint
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
        """Save states and random generators as a checkpoint that appears whole or not at all.

        `model`, `optimizer`, `scheduler` are objects with state_dict(), state dicts, or mappings
        and lists of such. "full" is saved by rank 0 alone, "sharded" by every rank its own part.
        Blocks: until it is on the disk; `asynchronous`: for a copy to CPU memory, then a thread
        writes, and its failure is told at the next call. Raises: nothing, unless strict.
        """
        from runwire.checkpoints import saving
        from runwire.checkpoints.saver import Saved

        try:
            return saving.save(
                self._session,
                self._saver(),
                step,
                {"model": model, "optimizer": optimizer, "scheduler": scheduler},
                extra=extra,
                how=saving.How(
                    kind=kind,
                    metrics=saving.numbers(metrics, self.guard.report),
                    is_best=bool(is_best),
                    asynchronous=asynchronous,
                    retention=saving.rules(retention, self.guard.report),
                ),
            )
        except Exception as error:
            self.guard.report("save_checkpoint", error)
            return Saved.not_here(-1, str(error))

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
        """Make a file or folder that something else wrote a checkpoint of this run.

        "full" is one rank's alone, "dcp" a folder of torch.distributed.checkpoint logged by one
        rank when all have written, "sharded" each rank's own part. The content is captured now;
        the files stay where they are and are never deleted. Raises: nothing, unless strict.
        """
        from runwire.artifacts.calls import refused
        from runwire.checkpoints import foreign, saving

        try:
            how = saving.How(
                kind=kind,
                metrics=saving.numbers(metrics, self.guard.report),
                is_best=bool(is_best),
                retention=saving.rules(retention, self.guard.report),
            )
            return foreign.log(self._session, self._saver(), Path(path), step, how=how)
        except Exception as error:
            self.guard.report("log_checkpoint", error)
            return refused()

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
        Raises: CheckpointError, also when nobody can tell whether there is one; what torch raises
        for states that do not fit. Blocks: reads it twice, the first time for its SHA-256.
        """
        from runwire.checkpoints import resuming

        saver = self._saver()
        saver.wait()
        wanted = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
        own = run_id is None or run_id == self._session.meta.run_id
        goes_on = own and (optimizer is not None if resume is None else resume)
        with resuming.finder_for(self._session, saver, run_id) as finder:
            found = resuming.load(finder, which, wanted, strict=strict, map_location=map_location)
        if found is None:
            return None
        part, checkpoint, rng = found
        if goes_on:
            saver.follow(checkpoint.saved_at_ns)
            self._resume_from(checkpoint.step, rng)
        if not own:
            self._record_use(part)
        return checkpoint

    def _resume_from(self, step: int, rng: Mapping[str, Any]) -> None:
        from runwire.checkpoints.rng import restore_rng

        for problem in restore_rng(rng):
            _log.warning("runwire: resuming from step %d: %s", step, problem)
        self._session.continue_at(step + 1)
        # Only the first time: going back later in the same attempt abandons no earlier attempt's
        # points that this one has not replaced already.
        if not self._has_resumed:
            self._has_resumed = True
            self._emit("run", {"event": "updated", "resumed_from_step": step})

    def _record_use(self, part: Found) -> None:
        from runwire_store.announce import used_fields

        self._emit("artifact", used_fields(part.manifest, part.folder.as_uri()))

    def _finish_checkpoints(self) -> None:
        """Wait for the save under way. Blocks: until it is on the disk."""
        saver = self._checkpoint_saver
        if saver is not None and saver.pid == os.getpid():
            saver.wait()

    def _saver(self) -> Saver:
        with _making:
            saver = self._checkpoint_saver
            # A forked child has no thread to wait for and maybe a lock that nobody will free.
            if saver is None or saver.pid != os.getpid():
                from runwire.checkpoints.saver import Saver

                saver = self._checkpoint_saver = Saver(self._session, self.guard.report)
            return saver

    def _emit(self, kind: str, fields: Mapping[str, Any]) -> None:
        raise NotImplementedError
