"""Saving: a snapshot, a file, a folder that appears whole, a request to the agent, old ones gone.

Without `asynchronous` all of it happens in the call. With it the call takes only the snapshot, and
one short-lived thread does the rest: the only exception to "no thread in the trainer", made only
when asked for. The next save, load and the end of the run wait for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runwire.checkpoints.compress import zstd_module
from runwire.checkpoints.local import LocalCheckpoints, LocalPart
from runwire.checkpoints.naming import checkpoint_name
from runwire.checkpoints.pruning import prune
from runwire.checkpoints.state_file import unwritten, write_state
from runwire.errors import CheckpointError
from runwire.outbox.capture import Entry
from runwire_store.manifest import CheckpointFacts, FileEntry, Manifest
from runwire_store.retention import Retention

if TYPE_CHECKING:
    from runwire.outbox.staged import Staged
    from runwire.session import Session
    from runwire.settings import Settings

__all__ = ["Job", "Saved", "Saver", "checkpoint_dir", "event_fields"]


@dataclass(kw_only=True)
class Saved:
    """What `save_checkpoint` returns; `path` is its folder once it is safely there, else None."""

    step: int
    artifact: str
    path: Path | None = None
    error: str | None = None
    _done: threading.Event = field(repr=False)

    def wait(self, timeout: float | None = None) -> bool:
        """Tell whether it is safely on this disk. Blocks: until it is, at most `timeout` s."""
        return self._done.wait(timeout) and self.path is not None

    @classmethod
    def not_here(cls, step: int, error: str | None = None) -> Saved:
        """Return what stands for a checkpoint that this process did not save."""
        done = threading.Event()
        done.set()
        return cls(step=step, artifact="", error=error, _done=done)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One checkpoint on its way to the disk. Units: `began` by `time.monotonic`."""

    facts: CheckpointFacts
    retention: Retention
    state: Mapping[str, Any]
    began: float


class Saver:
    """Saves the checkpoints of one session in this process, one at a time. Threads: safe."""

    def __init__(self, session: Session, report: Callable[[str, BaseException], None]) -> None:
        self._session, self.report = session, report
        self.pid = os.getpid()
        # Reentrant: a signal handler that saves may interrupt a save of its own thread.
        self._lock = threading.RLock()
        self._newest_ns = 0
        self._said: tuple[int, Mapping[str, float], bool] = (-1, {}, False)
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        meta = session.meta
        self.local = LocalCheckpoints(checkpoint_dir(session.settings), meta.project, meta.run_id)

    def wait(self) -> None:
        """Wait for the save under way, if any; report its failure."""
        with self._lock:
            self._join()
        failure, self._failure = self._failure, None
        if failure is not None:
            self.report("asynchronous save_checkpoint", failure)

    def save(self, job: Job) -> Saved:
        """Save in this call. Raises: CheckpointError with nothing left behind."""
        saved = Saved(step=job.facts.step, artifact=os.urandom(16).hex(), _done=threading.Event())
        with self._lock:
            self._join()
            self._save(job, saved)
        return saved

    def save_later(self, job: Job) -> Saved:
        """Save in a thread that ends with it; the process does not end before."""
        saved = Saved(step=job.facts.step, artifact=os.urandom(16).hex(), _done=threading.Event())

        def work() -> None:
            try:
                self._save(job, saved)
            except Exception as error:
                saved.error = str(error)
                self._failure = error
            finally:
                saved._done.set()  # noqa: SLF001 - also after what no clause catches

        with self._lock:
            self._join()
            # Not a daemon: the interpreter waits for it, so that a script's last save is whole.
            thread = threading.Thread(target=work, name="runwire-checkpoint", daemon=False)
            try:
                thread.start()
            except RuntimeError:  # no more threads, or the interpreter is about to end
                work()
            else:
                self._thread = thread
        return saved

    def follow(self, saved_at_ns: int) -> None:
        """Save from now on what counts as newer, even if the clock here is behind."""
        self._newest_ns = max(self._newest_ns, saved_at_ns)

    def said(
        self, step: int, metrics: Mapping[str, float], *, is_best: bool
    ) -> tuple[Mapping[str, float], bool]:
        """Return metrics and best mark of a step that is saved now.

        Saved again without a word about either, as scripts do at their end, it keeps what was said
        before: it takes the earlier one's place, which would lose the best checkpoint.
        """
        if metrics or is_best or step != self._said[0]:
            self._said = (step, metrics, is_best)
        return self._said[1:]

    def _join(self) -> None:
        while (thread := self._thread) is not None:
            thread.join()
            if self._thread is thread:  # else a signal handler has begun another meanwhile
                self._thread = None

    def _save(self, job: Job, saved: Saved) -> None:
        compress = self._compresses()
        try:
            with self.local.writing(saved.artifact) as hidden:
                entry, raw_bytes = write_state(hidden, job.state, compress=compress)
                took_s = time.monotonic() - job.began
                blocked_s = job.facts.blocked_s or took_s
                facts = replace(
                    job.facts, raw_bytes=raw_bytes, duration_s=took_s, blocked_s=blocked_s
                )
                manifest = self.manifest(saved.artifact, facts, (entry,))
                staged = self._staged(manifest, hidden / entry.path)
                with staged or contextlib.nullcontext():
                    self.local.prepare(hidden, manifest)
                    # Before the rename: views would miss what is saved when a kill comes between.
                    uri = self.local.place(manifest).as_uri()
                    self._session.append("checkpoint", event_fields(manifest, uri))
                    part = self.local.publish(hidden, manifest)
                    saved.path = part.folder
                    saved._done.set()  # noqa: SLF001 - safe from here on, whatever becomes of it
                    self._send(staged)
        except OSError as error:
            raise CheckpointError(unwritten(self.local.folder, error)) from error
        self.prune(part, job.retention)

    def _compresses(self) -> bool:
        """Whether to compress; where that cannot be, the checkpoint is saved as it is."""
        if self._session.settings.checkpoint_compress != "zstd":
            return False
        try:
            zstd_module()
        except CheckpointError as error:
            self.report("compressing a checkpoint", error)
            return False
        return True

    def _staged(self, manifest: Manifest, path: Path) -> Staged | None:
        """Prepare the upload of what is about to be published: killed after that, it is sent too.

        The checkpoint is saved here whatever becomes of its upload: failures are reported.
        """
        place = self.local.place(manifest)
        (file,) = manifest.files
        entry = Entry(
            path=file.path,
            source=path,
            immutable=True,
            sha256=file.sha256,
            lies_at=place / file.path,
        )
        try:
            return self.stage(manifest, [entry], awaits=str(place))
        except Exception as error:
            self.report("sending a checkpoint", error)
            return None

    def _send(self, staged: Staged | None) -> None:
        try:
            if staged is not None:
                self._session.outbox.commit(staged)
        except Exception as error:
            self.report("sending a checkpoint", error)

    def stage(
        self,
        manifest: Manifest,
        entries: Iterable[Entry],
        *,
        awaits: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Staged | None:
        """Prepare the upload of a checkpoint; None where nothing is. Raises: ArtifactError."""
        return self._session.outbox.stage(
            manifest.name,
            manifest.type,
            entries,
            aliases=manifest.aliases,
            metadata=metadata,
            checkpoint=manifest.checkpoint,
            artifact=manifest.artifact,
            created_at_ns=manifest.created_at_ns,
            awaits=awaits,
        )

    def prune(self, part: LocalPart, retention: Retention) -> None:
        """Delete what the rules let go now that `part` is there; failures are reported."""
        try:
            prune(self.local, part, retention)
        except OSError as error:
            self.report("removing old checkpoints", error)

    def manifest(
        self,
        artifact: str,
        facts: CheckpointFacts,
        files: tuple[FileEntry, ...],
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Return the manifest of a checkpoint that this process saves."""
        meta = self._session.identity() or self._session.meta
        best = ("best",) if facts.is_best else ()
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
            aliases=(f"step-{facts.step}", *best),
            metadata=metadata or {},
            checkpoint=facts,
        )


def checkpoint_dir(settings: Settings) -> Path:
    """Return the absolute folder of local checkpoints."""
    chosen = settings.checkpoint_dir
    return Path(chosen).expanduser().absolute() if chosen else settings.root / "checkpoints"


def event_fields(manifest: Manifest, uri: str) -> dict[str, Any]:
    """Return what the record of a saved checkpoint says."""
    facts = manifest.checkpoint
    assert facts is not None
    return {
        "at_ns": manifest.created_at_ns,
        "artifact": manifest.artifact,
        "step": facts.step,
        "kind": facts.kind,
        "world_size": facts.world_size,
        "metrics": dict(facts.metrics),
        "is_best": facts.is_best,
        "bytes": manifest.size,
        # Of files of others the agent computes it; until then nobody knows any.
        "sha256": manifest.digest if all(entry.sha256 for entry in manifest.files) else "",
        "uri": uri,
        "duration_s": facts.duration_s,
        "blocked_s": facts.blocked_s,
        "raw_bytes": facts.raw_bytes,
    }
