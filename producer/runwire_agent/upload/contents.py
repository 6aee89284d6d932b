"""The content of a request: its files with their digests, and the manifest of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from runwire_agent.upload.progress_note import ProgressNote
from runwire_agent.upload.transport import Pace, UploadFailed
from runwire_disk.outbox.hashing import ContentGoneError, Signature, hash_file, signature
from runwire_disk.outbox.request import RequestFile, UploadRequest, content_path
from runwire_store.manifest import FileEntry, Manifest

__all__ = ["contents_of", "entry_as_logged", "hash_entry", "manifest_of"]

READS_MAX = 3  # of a file that changes meanwhile


def hash_entry(folder: Path, file: RequestFile, note: ProgressNote, pace: Pace) -> FileEntry:
    """Return a file's entry with the digest of its content now.

    Blocks: while it is read. Raises: UploadFailed when it is gone or differs from what was logged;
    OSError.
    """
    path = Path(file.source) if file.source else content_path(folder, file.index)
    try:
        now, sha256 = _hash(path, file, note, pace)
    except FileNotFoundError as error:
        where = file.source or f"the outbox ({path})"
        raise UploadFailed(f"{file.path!r} is gone from {where}; log the artifact again") from error
    except ContentGoneError as error:
        raise UploadFailed(
            f"{file.path!r} is a folder, a pipe or a device ({path}): only files have content"
        ) from error
    is_changed = not file.source and now.size != file.size
    if is_changed or (file.sha256 and sha256 != file.sha256):
        raise UploadFailed(
            f"{file.path!r} is no longer what was logged: it has SHA-256 {sha256} and "
            f"{now.size} bytes. Something wrote into the file; log the artifact again"
        )
    uri = path.as_uri() if file.source else ""
    return FileEntry(path=file.path, size=now.size, sha256=sha256, uri=uri)


def entry_as_logged(file: RequestFile) -> FileEntry:
    """Return a file's entry with the digest that was logged; the reader has to compare it."""
    return FileEntry(path=file.path, size=file.size, sha256=file.sha256)


def contents_of(
    request: UploadRequest, folder: Path, entries: Iterable[FileEntry]
) -> dict[str, Path]:
    """Return the path of each distinct content to upload, by its SHA-256."""
    pairs = zip(request.files, entries, strict=True)
    return {
        entry.sha256: content_path(folder, file.index) for file, entry in pairs if not entry.uri
    }


def manifest_of(request: UploadRequest, entries: Iterable[FileEntry]) -> Manifest:
    """Return the manifest of the request with these entries."""
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


def _hash(path: Path, file: RequestFile, note: ProgressNote, pace: Pace) -> tuple[Signature, str]:
    name = str(file.index)
    for _ in range(READS_MAX):
        before = signature(path)
        known = note.digest(name, before)
        if known:
            return before, known
        sha256 = hash_file(path, pace.worked)
        if signature(path) == before:
            note.note_digest(name, sha256, before)
            return before, sha256
    raise UploadFailed(
        f"{file.path!r} changed while it was read, {READS_MAX} times: log it again when "
        "nothing writes to it any more"
    )
