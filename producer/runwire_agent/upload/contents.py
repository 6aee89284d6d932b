"""From a request to the manifest of what it will be: every file with its digest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from runwire_agent.upload.errors import UploadFailed
from runwire_agent.upload.pace import Pace
from runwire_agent.upload.progress_note import UploadJournal
from runwire_disk.outbox.hashing import ContentGoneError, Signature, sha256_of, signature
from runwire_disk.outbox.request import RequestFile, UploadRequest, content_path
from runwire_store.manifest import FileEntry, Manifest

__all__ = ["contents_of", "hashed_entry", "manifest_of", "told_entry"]

READS_MAX = 3  # of a file that changes while it is read


def hashed_entry(folder: Path, file: RequestFile, journal: UploadJournal, pace: Pace) -> FileEntry:
    """Return a file's entry with the digest of what lies there now.

    Blocks: while it is read. Raises: UploadFailed when it is gone or not what was logged; OSError.
    """
    path = Path(file.source) if file.source else content_path(folder, file.index)
    try:
        found, sha256 = _read(path, file, journal, pace)
    except FileNotFoundError as error:
        where = file.source or f"the outbox ({path})"
        raise UploadFailed(f"{file.path!r} is gone from {where}; log the artifact again") from error
    except ContentGoneError as error:
        raise UploadFailed(
            f"{file.path!r} is a folder, a pipe or a device ({path}): only files have content"
        ) from error
    is_changed = not file.source and found.size != file.size
    if is_changed or (file.sha256 and sha256 != file.sha256):
        raise UploadFailed(
            f"{file.path!r} is no longer what was logged: it has SHA-256 {sha256} and "
            f"{found.size} bytes. Something wrote into the file; log the artifact again"
        )
    uri = path.as_uri() if file.source else ""
    return FileEntry(path=file.path, size=found.size, sha256=sha256, uri=uri)


def told_entry(file: RequestFile) -> FileEntry:
    """Return the entry of a file whose digest was given; whoever reads it has to compare."""
    return FileEntry(path=file.path, size=file.size, sha256=file.sha256)


def contents_of(
    request: UploadRequest, folder: Path, entries: Iterable[FileEntry]
) -> dict[str, Path]:
    """Return where each different content that has to be moved lies, by its SHA-256."""
    pairs = zip(request.files, entries, strict=True)
    return {
        entry.sha256: content_path(folder, file.index) for file, entry in pairs if not entry.uri
    }


def manifest_of(request: UploadRequest, entries: Iterable[FileEntry]) -> Manifest:
    """Return the manifest that the request asks for."""
    return Manifest(
        artifact=request.artifact,
        project=request.project,
        run_id=request.run_id,
        attempt=request.attempt,
        writer=request.writer,
        rank=request.rank,
        name=request.name,
        type=request.type,
        created_at_ns=request.created_at_ns,
        files=tuple(entries),
        aliases=request.aliases,
        metadata=request.metadata,
        checkpoint=request.checkpoint,
        route=request.route,
    )


def _read(
    path: Path, file: RequestFile, journal: UploadJournal, pace: Pace
) -> tuple[Signature, str]:
    name = str(file.index)
    for _ in range(READS_MAX):
        before = signature(path)
        known = journal.digest(name, before)
        if known:
            return before, known
        sha256 = sha256_of(path, pace.worked)
        if signature(path) == before:
            journal.note_digest(name, sha256, before)
            return before, sha256
    raise UploadFailed(
        f"{file.path!r} changes while it is read, {READS_MAX} times now: log it again when nobody "
        "writes to it any more"
    )
