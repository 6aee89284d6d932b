"""Foreign checkpoints, written by other tools: captured for the agent, noted on this disk.

The note names the files where they are, with size and time of writing; hashing terabytes is the
agent's work. Loading on this disk uses the files as long as nobody has written to them again, else
the copy in the store.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runwire.checkpoints.local import FOREIGN, MTIMES
from runwire.checkpoints.saver import Saver
from runwire.checkpoints.wishes import Wishes, check_step
from runwire.errors import CheckpointError
from runwire.outbox.arguments import Entry, entries_at
from runwire.outbox.ref import ArtifactRef, unseen
from runwire_store.announce import saved_fields
from runwire_store.manifest import KINDS, FileEntry

if TYPE_CHECKING:
    from runwire.session import Session

__all__ = ["log_foreign"]


def log_foreign(
    session: Session, saver: Saver, path: Path, *, step: int, wishes: Wishes
) -> ArtifactRef:
    """Capture, note and record. Raises: CheckpointError, ArtifactError, OSError.

    Blocks: while content is copied; nothing is copied where the file system can clone.
    """
    began = time.monotonic()
    step = check_step(step)
    if wishes.kind not in KINDS:
        raise CheckpointError(f"kind={wishes.kind!r}: it is one of {', '.join(KINDS)}")
    saver.settle()
    session.identity()  # refuses after the end
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: log a checkpoint after it was written")
    entries = list(entries_at(path, leave_out=session.settings.root))
    artifact = os.urandom(16).hex()
    files, mtimes = _note_files(entries)
    took_s = time.monotonic() - began
    facts = replace(
        saver.facts(step, wishes),
        raw_bytes=sum(file.size for file in files),
        blocked_s=took_s,
    )
    facts = replace(facts, duration_s=took_s)
    # The request first: it describes the files as they are now, and if the outbox is full no note
    # is left behind.
    mark = {FOREIGN: True}
    manifest = saver.manifest(artifact, facts, files, metadata={**mark, MTIMES: mtimes})
    ref = unseen(manifest.name, manifest.type)
    with session.outbox.staging(artifact) as staged:
        if saver.stage(staged, manifest, entries, metadata=mark):
            ref = session.outbox.commit(staged)
    session.append("checkpoint", saved_fields(manifest, path.absolute().as_uri()))
    with saver.local.writing(artifact) as hidden:
        saver.local.prepare(hidden, manifest)
        part = saver.local.publish(hidden, manifest)
    saver.prune(part, wishes.rules(session.settings))
    return ref


def _note_files(entries: Sequence[Entry]) -> tuple[tuple[FileEntry, ...], dict[str, int]]:
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
