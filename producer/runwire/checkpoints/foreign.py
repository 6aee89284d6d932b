"""Checkpoints that something else wrote: captured for the agent, noted on this disk.

The note names the files where they lie, with size and time of writing; hashing terabytes is the
agent's work. Who loads from here gets them as long as nobody wrote them again, else from the store.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runwire.artifacts.artifact import artifact_of
from runwire.checkpoints.saver import Saver, event_fields
from runwire.checkpoints.saving import How, checked_kind, checked_step, facts_of, retention_of
from runwire.checkpoints.verifying import MTIMES, OF_OTHERS
from runwire.errors import CheckpointError
from runwire.outbox.outbox import unseen
from runwire_store.manifest import FileEntry

if TYPE_CHECKING:
    from runwire.artifacts.ref import ArtifactRef
    from runwire.outbox.capture import Entry
    from runwire.session import Session

__all__ = ["log"]


def log(session: Session, saver: Saver, path: Path, step: int, *, how: How) -> ArtifactRef:
    """Capture, note and record. Raises: CheckpointError, ArtifactError, OSError.

    Blocks: while content is copied; nothing is copied where the file system can clone.
    """
    began = time.monotonic()
    step, _ = checked_step(step), checked_kind(how.kind)
    saver.wait()
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: log a checkpoint after it was written")
    entries = list(artifact_of(path, None, policy="auto").entries(session.settings.root))
    artifact = os.urandom(16).hex()
    files, mtimes = _noted(entries)
    took_s = time.monotonic() - began
    facts = replace(
        facts_of(session, saver, step, how),
        raw_bytes=sum(file.size for file in files),
        blocked_s=took_s,
    )
    facts = replace(facts, duration_s=took_s)
    # The request first: it names what the files are now, and a full outbox leaves no note behind.
    mark = {OF_OTHERS: True}
    manifest = saver.manifest(artifact, facts, files, metadata={**mark, MTIMES: mtimes})
    staged = saver.stage(manifest, entries, metadata=mark)
    ref = unseen(manifest.name, manifest.type) if staged is None else session.outbox.commit(staged)
    session.append("checkpoint", event_fields(manifest, path.absolute().as_uri()))
    with saver.local.writing(artifact) as hidden:
        saver.local.prepare(hidden, manifest)
        part = saver.local.publish(hidden, manifest)
    saver.prune(part, retention_of(session.settings, how))
    return ref


def _noted(entries: list[Entry]) -> tuple[tuple[FileEntry, ...], dict[str, int]]:
    files, mtimes = [], {}
    for entry in entries:
        assert isinstance(entry.source, Path)
        state = entry.source.stat()
        mtimes[entry.path] = state.st_mtime_ns
        files.append(
            FileEntry(
                path=entry.path, size=state.st_size, sha256="", uri=entry.source.absolute().as_uri()
            )
        )
    return tuple(files), mtimes
