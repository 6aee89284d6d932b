"""Saving of checkpoints: a snapshot, a file, a folder published whole, a request to the agent.

With `asynchronous` the call takes only the snapshot, and one short-lived thread does the rest: the
only exception to "no thread in the trainer". The next save, load and end of the run wait for it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runwire.checkpoints.local import LocalCheckpoints, LocalPart
from runwire.checkpoints.random_states import capture_rng
from runwire.checkpoints.saving_thread import SavingThread
from runwire.checkpoints.snapshot import Snapshot, check_collective
from runwire.checkpoints.state_file import (
    LEFT_OUT,
    describe_left_out,
    explain_failure,
    import_torch,
    write_state,
    zstd_module,
)
from runwire.checkpoints.wishes import Wishes, check_step
from runwire.conversion import TIMEOUT
from runwire.errors import CheckpointError
from runwire.guard import needed_call
from runwire.outbox.arguments import Entry
from runwire_store.announce import saved_fields
from runwire_store.manifest import CheckpointFacts, FileEntry, Manifest, checkpoint_name
from runwire_store.retention import Retention

if TYPE_CHECKING:
    from runwire.outbox.capture import Staged
    from runwire.session import Session

__all__ = ["Saved", "Saver"]

# Names in a message; the checkpoint has them all.
_NAMES_MAX = 3
# A disk that hangs for longer must not keep the run from ending; one that is only slow is awaited,
# since nobody can record the checkpoint once the run has ended.
FINISH_WAIT_S = 600.0


@dataclass(kw_only=True)
class Saved:
    """Result of `save_checkpoint`; `path` is its folder once it is safely on disk, else None."""

    step: int
    artifact: str
    path: Path | None = None
    error: str | None = None
    _done: threading.Event = field(default_factory=threading.Event, repr=False)

    @needed_call(error=CheckpointError, timeout=TIMEOUT)
    def wait(self, timeout: float | None = None) -> bool:
        """Return whether it is safely on this disk. Blocks: until it is, at most `timeout` s.

        Raises: CheckpointError for a timeout that is no number of seconds.
        """
        return self._done.wait(timeout) and self.path is not None

    def settle(self) -> None:
        """End every `wait`: the outcome is known."""
        self._done.set()

    @classmethod
    def not_here(cls, step: int, error: str | None = None) -> Saved:
        """Return the result for a checkpoint that this process did not save."""
        saved = cls(step=step, artifact="", error=error)
        saved.settle()
        return saved


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One checkpoint on its way to the disk. Units: `began` by `time.monotonic`."""

    facts: CheckpointFacts
    rules: Retention
    state: Mapping[str, Any]
    began: float
    saved: Saved


class Saver:
    """Saves the checkpoints of one session in this process, one at a time. Threads: safe."""

    def __init__(self, session: Session) -> None:
        self._session, self._guard = session, session.guard
        # Reentrant: a signal handler that saves may interrupt a save of its own thread.
        self._lock = threading.RLock()
        self._newest_ns = 0
        self._latest = CheckpointFacts(step=-1, kind="")
        self._thread = SavingThread()
        self._failure: tuple[int, Exception] | None = None
        self.local = LocalCheckpoints.of(session.settings, session.meta)

    def settle(self) -> None:
        """Wait for the save under way, if any; report its failure. Blocks: until it is on disk."""
        with self._lock:
            self._thread.join()
        self._report_failure()

    def finish(self, wait_s: float) -> None:
        """Wait for the save under way, at most `wait_s` or 10 minutes, whichever is longer.

        A save that takes longer goes on, and the process does not end before it; what is lost with
        the end of the run is reported.
        """
        wait_s = max(wait_s, FINISH_WAIT_S)
        end_s = time.monotonic() + wait_s
        is_over = False
        if self._lock.acquire(timeout=wait_s):  # else another thread saves
            try:
                is_over = self._thread.join(max(0.0, end_s - time.monotonic()))
            finally:
                self._lock.release()
        self._report_failure()
        if not is_over:
            problem = CheckpointError(
                f"it is still being written to {self.local.folder} after {wait_s:g} s: see whether "
                "that disk hangs. The run ends now, the process when it is written; then it can be "
                "loaded from there"
            )
            name = f"the upload of the checkpoint of step {self._latest.step}"
            self._guard.report_loss("finish", name, problem)

    def _report_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            step, error = failure
            name = f"the checkpoint of step {step}"
            self._guard.report_loss("asynchronous save_checkpoint", name, error)

    def save(self, step: int, objects: Mapping[str, Any], extra: Any, wishes: Wishes) -> Saved:
        """Save now or later. Raises: RunwireError, OSError, with nothing left behind."""
        began = time.monotonic()
        self.settle()
        step, meta = check_step(step), self._session.meta
        if wishes.kind not in ("full", "sharded"):
            raise CheckpointError(
                f"save_checkpoint(kind={wishes.kind!r}): it is 'full' or 'sharded'; pass "
                "checkpoints of other tools to log_checkpoint"
            )
        if wishes.kind == "full" and meta.rank != 0:
            return Saved.not_here(step)
        self._session.identity()  # refuses after the end; what has begun before is completed
        import_torch()
        if wishes.kind == "full" and meta.world_size > 1:
            for name, thing in objects.items():
                check_collective(thing, name)
        facts = self.facts(step, wishes)
        state = self._capture(objects, extra, facts, copy=wishes.asynchronous)
        if wishes.asynchronous:
            facts = replace(facts, blocked_s=time.monotonic() - began)
        job = _Job(
            facts=facts,
            rules=wishes.rules(self._session.settings),
            state=state,
            began=began,
            saved=Saved(step=step, artifact=os.urandom(16).hex()),
        )
        if wishes.asynchronous:
            self._save_later(job)
        else:
            with self._lock:
                self._thread.join()
                self._write(job)
        return job.saved

    def _capture(
        self, objects: Mapping[str, Any], extra: Any, facts: CheckpointFacts, *, copy: bool
    ) -> dict[str, Any]:
        snapshot = Snapshot(copy=copy, strict=self._guard.strict)
        generators, problems = capture_rng()
        for problem in problems:
            self._guard.report("random states of a checkpoint", CheckpointError(problem))
        state = {
            name: snapshot.take(thing, name, is_needed=True)
            for name, thing in objects.items()
            if thing is not None
        }
        kept = snapshot.take(extra, "extra")
        if snapshot.left_out:
            state[LEFT_OUT] = snapshot.left_out
            names = ", ".join(islice(snapshot.left_out, _NAMES_MAX))
            problem = describe_left_out(facts.step, snapshot.left_out)
            self._guard.report(f"saving {names} in a checkpoint", CheckpointError(problem))
        return {
            "step": facts.step,
            "metrics": dict(facts.metrics),
            "extra": kept,
            "rng": generators,
            **state,
        }

    def facts(self, step: int, wishes: Wishes) -> CheckpointFacts:
        """Return the facts of a checkpoint that are known before it is written.

        A step that is saved again without metrics or best mark, as scripts do at their end, keeps
        those it had: the new save replaces the earlier one, and the best checkpoint would be lost.
        """
        metrics, is_best = wishes.metrics, wishes.is_best
        if not metrics and not is_best and step == self._latest.step:
            metrics, is_best = self._latest.metrics, self._latest.is_best
        self._latest = CheckpointFacts(
            step=step,
            kind=wishes.kind,
            world_size=self._session.meta.world_size if wishes.kind == "sharded" else 1,
            metrics=metrics,
            is_best=is_best,
            retention=wishes.rules(self._session.settings).as_json(),
        )
        return self._latest

    def follow(self, saved_at_ns: int) -> None:
        """Make every later save newer than `saved_at_ns`, even if the clock here is behind."""
        self._newest_ns = max(self._newest_ns, saved_at_ns)

    def _save_later(self, job: _Job) -> None:
        """Save in a thread that ends with it; the process does not end before."""

        def work() -> None:
            try:
                self._write(job)
            except Exception as error:
                job.saved.error = str(error)
                self._failure = (job.saved.step, error)
            finally:
                job.saved.settle()  # also after an exception that no clause catches

        with self._lock:
            self._thread.start(work)

    def _write(self, job: _Job) -> None:
        compress, saved = self._can_compress(), job.saved
        try:
            with self.local.writing(saved.artifact) as hidden:
                entry, raw_bytes = write_state(hidden, job.state, compress=compress)
                took_s = time.monotonic() - job.began
                facts = replace(
                    job.facts,
                    raw_bytes=raw_bytes,
                    duration_s=took_s,
                    blocked_s=job.facts.blocked_s or took_s,
                )
                manifest = self.manifest(saved.artifact, facts, (entry,))
                with ExitStack() as undo:
                    staged = self._try_stage(manifest, hidden / entry.path, undo)
                    self.local.prepare(hidden, manifest)
                    # Before the rename: killed in between, views would miss a saved checkpoint.
                    uri = self.local.place(manifest).as_uri()
                    self._session.append("checkpoint", saved_fields(manifest, uri))
                    part = self.local.publish(hidden, manifest)
                    saved.path = part.folder
                    saved.settle()  # safe from here on, also if its upload fails
                    with self._sending(job.saved.step):
                        if staged is not None:
                            self._session.outbox.commit(staged)
        except OSError as error:
            raise CheckpointError(explain_failure(self.local.folder, error)) from error
        self.prune(part, job.rules)

    def _can_compress(self) -> bool:
        """Return whether to compress; without zstd the checkpoint is saved uncompressed."""
        if self._session.settings.checkpoint_compress != "zstd":
            return False
        with self._guard.catching("compressing a checkpoint"):
            zstd_module()
            return True
        return False

    def _try_stage(self, manifest: Manifest, path: Path, undo: ExitStack) -> Staged | None:
        """Prepare the upload before the checkpoint is published: a kill in between loses neither.

        A failed upload does not undo the save: failures are reported. `undo` deletes what was not
        committed.
        """
        place = self.local.place(manifest)
        (file,) = manifest.files
        entry = Entry(
            path=file.path,
            source=path,
            immutable=True,
            sha256=file.sha256,
            final_path=place / file.path,
        )
        assert manifest.checkpoint is not None
        with self._sending(manifest.checkpoint.step):
            staged = undo.enter_context(self._session.outbox.staging(manifest.artifact))
            return staged if self.stage(staged, manifest, [entry], awaits=str(place)) else None
        return None

    @contextmanager
    def _sending(self, step: int) -> Iterator[None]:
        """Report what keeps a checkpoint of this disk from the store, every time."""
        try:
            yield
        except Exception as error:
            name = f"the upload of the checkpoint of step {step}"
            self._guard.report_loss("sending a checkpoint", name, error)

    def stage(
        self,
        staged: Staged,
        manifest: Manifest,
        entries: Iterable[Entry],
        *,
        awaits: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """Prepare an upload; False if nothing is uploaded. Raises: ArtifactError."""
        return self._session.outbox.stage(
            staged,
            manifest.name,
            manifest.type,
            entries,
            aliases=manifest.aliases,
            metadata=metadata,
            checkpoint=manifest.checkpoint,
            created_at_ns=manifest.created_at_ns,
            awaits=awaits,
        )

    def prune(self, part: LocalPart, rules: Retention) -> None:
        """Delete the checkpoints that `part` made expire; failures are reported."""
        with self._guard.catching("removing old checkpoints"):
            self.local.prune(part, rules)

    def manifest(
        self,
        artifact: str,
        facts: CheckpointFacts,
        files: tuple[FileEntry, ...],
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Return the manifest of a checkpoint that this process saves."""
        meta = self._session.meta
        self.follow(max(time.time_ns(), self._newest_ns + 1))
        return Manifest(
            artifact=artifact,
            project=meta.project,
            run_id=meta.run_id,
            attempt=meta.attempt,
            writer=meta.writer,
            rank=meta.rank,
            name=checkpoint_name(meta.project, meta.run_id),
            type="checkpoint",
            created_at_ns=self._newest_ns,
            files=files,
            aliases=(f"step-{facts.step}", *(["best"] if facts.is_best else [])),
            metadata=metadata or {},
            checkpoint=facts,
        )
