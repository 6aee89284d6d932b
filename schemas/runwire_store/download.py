"""Download of an artifact's files into a folder, and verification of the stored content.

Invariants: no file gets its name before its SHA-256 was checked; nothing is written outside the
folder, neither through a link nor because of a name; content is never interpreted.
"""

from __future__ import annotations

import os
import shutil
import stat as modes
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from runwire_store.folder.files import hash_stream
from runwire_store.layout import blob_key
from runwire_store.manifest import FileEntry, Manifest, check_files
from runwire_store.store import NotFound, ObjectStore, Progress, StoreError

__all__ = ["DigestMismatch", "DownloadError", "Problem", "download", "verify"]

# Large enough that reading costs more than calling, small for any process.
READ_BYTES: Final = 1 << 20
# Schemes and hosts of files on this machine's file systems.
LOCAL: Final = (("file", ""), ("file", "localhost"))


class DownloadError(StoreError):
    """A file cannot be downloaded; the message says which one and what to do."""


class DigestMismatch(DownloadError):  # noqa: N818 - a verdict on the content
    """Content differs from its manifest: it was damaged or replaced."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One damaged or missing file of an artifact."""

    path: str
    sha256: str
    reason: str


def download(
    store: ObjectStore, manifest: Manifest, into: Path, *, progress: Progress | None = None
) -> list[Path]:
    """Download all files below `into` and return their paths, in the order of the manifest.

    Existing files with the right content are kept; others of the same name are replaced. The next
    call resumes an interrupted one. Raises: DigestMismatch; DownloadError; ManifestError for names
    that would leave the folder; NotFound; OSError.
    """
    check_files(manifest.files)
    into.mkdir(parents=True, exist_ok=True)
    root = into.resolve()
    parts = root / f".runwire-{manifest.artifact}"
    paths = []
    for entry in manifest.files:
        target = _place(root, entry)
        if _is_there(target, entry):
            _tell(progress, entry.size)
        else:
            _safe_folder(parts)
            fetched = parts / entry.sha256
            resumed = Path(f"{fetched}.part").exists()
            # A part of an earlier call may have other content: then it is downloaded once more.
            if not any(_whole(store, entry, fetched, progress) for _ in range(1 + resumed)):
                raise DigestMismatch(_mismatch(store, manifest, entry))
            fetched.replace(target)
        paths.append(target)
    with suppress(FileNotFoundError):
        shutil.rmtree(parts)
    return paths


def verify(
    store: ObjectStore,
    manifest: Manifest,
    *,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> list[Problem]:
    """Read all content again and return the files that are missing or damaged.

    Needs room for the largest file in `scratch`, by default the folder for temporary files.
    Raises: StoreAway, StoreRefused, OSError.
    """
    check_files(manifest.files)
    problems = []
    with tempfile.TemporaryDirectory(prefix="runwire-verify-", dir=scratch) as folder:
        for entry in manifest.files:
            path = Path(folder) / "content"
            try:
                _fetch(store, entry, path, progress)
                if _hash(path) != entry.sha256:
                    raise DigestMismatch("its content does not match its digest: it is damaged")
            except (DownloadError, NotFound) as error:
                problems.append(Problem(entry.path, entry.sha256, str(error)))
            path.unlink(missing_ok=True)
    return problems


def _hash(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hash_stream(file)


def _whole(store: ObjectStore, entry: FileEntry, path: Path, progress: Progress | None) -> bool:
    """Download content to `path`; return whether it is right, wrong content is deleted."""
    path.unlink(missing_ok=True)
    _fetch(store, entry, path, progress)
    if _hash(path) == entry.sha256:
        return True
    path.unlink()
    return False


def _fetch(store: ObjectStore, entry: FileEntry, path: Path, progress: Progress | None) -> None:
    """Download the content of one file to `path` and check its size."""
    if entry.uri:
        _copy_reference(entry, path, progress)
    elif not entry.size:
        path.write_bytes(b"")
    else:
        key = blob_key(entry.sha256)
        known = store.stat(key)
        if known is None:
            raise NotFound(
                f"the content of {entry.path[:200]!r} is not in {store.uri} ({key}): "
                "it was deleted; log the file again"
            )
        if known.size != entry.size:
            raise DigestMismatch(
                f"{key} of {entry.path[:200]!r} has {known.size} bytes in {store.uri} instead of "
                f"{entry.size}: it is damaged; delete it there and log the file again"
            )
        store.get_file(key, path, progress=progress)


def _mismatch(store: ObjectStore, manifest: Manifest, entry: FileEntry) -> str:
    where = entry.uri or f"{store.uri}/{blob_key(entry.sha256)}"
    return (
        f"the content of {entry.path[:200]!r} does not match its digest {entry.sha256}: {where} is "
        f"damaged. `runwire artifact verify` finds what else of {manifest.name!r} is; delete that "
        "object and log the file again, or load an earlier version"
    )


def _copy_reference(entry: FileEntry, path: Path, progress: Progress | None) -> None:
    source = _local_path(entry)
    # A device or a pipe of that name would block or never end.
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DownloadError(
            f"{entry.path[:200]!r} is a reference to {entry.uri}, which cannot be read here "
            f"({error.strerror}): mount that file system, or log the file with its content"
        ) from error
    try:
        found = os.fstat(descriptor)
        if not modes.S_ISREG(found.st_mode) or found.st_size != entry.size:
            raise DigestMismatch(
                f"{entry.path[:200]!r} is a reference to {entry.uri}, which is no file of "
                f"{entry.size} bytes (any more): it was changed after it was logged"
            )
        with path.open("wb") as copy:
            while data := os.read(descriptor, READ_BYTES):
                copy.write(data)
                _tell(progress, len(data))
    finally:
        os.close(descriptor)


def _local_path(entry: FileEntry) -> str:
    try:
        parts = urlsplit(entry.uri)
        path = url2pathname(parts.path)
    except ValueError:
        path = ""
    if not path or "\0" in path or (parts.scheme, parts.netloc) not in LOCAL:
        raise DownloadError(
            f"{entry.path[:200]!r} is a reference to {entry.uri[:200]!r}: only file:///... can be "
            "read here; fetch it yourself"
        )
    return path


def _place(root: Path, entry: FileEntry) -> Path:
    """Return the path of a file and make its folders, none of which is a link."""
    folder = root
    *names, last = entry.path.split("/")
    for name in names:
        folder = folder / name
        _safe_folder(folder)
    target = folder / last
    if target.is_dir() and not target.is_symlink():
        raise DownloadError(f"{target} is a folder where a file belongs; use another folder")
    return target


def _safe_folder(folder: Path) -> None:
    with suppress(FileExistsError):
        folder.mkdir()
    if not modes.S_ISDIR(folder.lstat().st_mode):
        raise DownloadError(
            f"{folder} is a link or a file where a folder belongs: nothing is written through it; "
            "remove it or use another folder"
        )


def _is_there(target: Path, entry: FileEntry) -> bool:
    try:
        found = target.lstat()
    except FileNotFoundError:
        return False
    if not modes.S_ISREG(found.st_mode) or found.st_size != entry.size:
        return False
    return _hash(target) == entry.sha256


def _tell(progress: Progress | None, count: int) -> None:
    if progress is not None:
        progress(count)
