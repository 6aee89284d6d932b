"""Verifying: whether what lies on this disk is what was saved, and where exactly it lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from runwire.checkpoints.compress import SUFFIX
from runwire.checkpoints.local import LocalPart
from runwire.checkpoints.state_file import STATE_FILE, digest_of
from runwire.errors import CheckpointError
from runwire_store.manifest import FileEntry, Manifest, ManifestError

__all__ = [
    "MTIMES",
    "OF_OTHERS",
    "DamagedCheckpoint",
    "Found",
    "content_dir",
    "is_ours",
    "path_of",
    "verified",
]

# In the metadata of a note about somebody else's files: when each was last written.
MTIMES: Final = "mtime_ns"
# In that of every checkpoint that log_checkpoint made, here and in the store.
OF_OTHERS: Final = "of_others"
CONTENT_DIR: Final = "content"


class DamagedCheckpoint(CheckpointError):  # noqa: N818 - a state of the checkpoint
    """The content of a checkpoint is not what was saved, or is gone."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One rank's part of a checkpoint, verified; `files` are where its content lies."""

    manifest: Manifest
    folder: Path
    files: tuple[Path, ...] = ()

    @property
    def path(self) -> Path:
        """The file, or the folder of many."""
        first = self.files[0]
        if len(self.files) == 1:
            return first
        return first.parents[self.manifest.files[0].path.count("/")]


def is_ours(manifest: Manifest) -> bool:
    """Return whether save_checkpoint wrote the content; others may call a file as we do."""
    if OF_OTHERS in manifest.metadata or MTIMES in manifest.metadata:
        return False
    return _is_state_file(manifest)


def content_dir(manifest: Manifest, folder: Path) -> Path:
    """Return where content lies: that of others below, it may have a manifest.json of its own."""
    return folder if _is_state_file(manifest) else folder / CONTENT_DIR


def _is_state_file(manifest: Manifest) -> bool:
    return [entry.path for entry in manifest.files] in ([STATE_FILE], [STATE_FILE + SUFFIX])


def verified(part: LocalPart, stored: Manifest | None) -> Found:
    """Return a part on this disk that is what was saved.

    `stored` is its manifest in the store, if there is one: a note about files of others has no
    digests, and the agent has computed them since.
    Raises: DamagedCheckpoint, OSError. Blocks: reads it.
    """
    digests = {} if stored is None else {entry.path: entry.sha256 for entry in stored.files}
    paths = tuple(_verified_files(part, digests))
    return Found(manifest=part.manifest, folder=part.folder, files=paths)


def _verified_files(part: LocalPart, digests: Mapping[str, str]) -> Iterator[Path]:
    mtimes = part.manifest.metadata.get(MTIMES, {})
    for entry in part.manifest.files:
        path = path_of(part, entry)
        state = path.stat()
        if state.st_size != entry.size:
            raise DamagedCheckpoint(f"{path} has {state.st_size} bytes, {entry.size} were saved")
        # Own manifests have digests; the store's word counts only where the note has none.
        if digest := entry.sha256 or digests.get(entry.path, ""):
            if digest_of(path) != digest:
                raise DamagedCheckpoint(
                    f"{path} is damaged: its SHA-256 is not the one that was saved"
                )
        elif mtimes.get(entry.path) != state.st_mtime_ns:
            raise DamagedCheckpoint(f"{path} was written again after it was logged")
        yield path


def path_of(part: LocalPart, entry: FileEntry) -> Path:
    """Return where a file of a part lies. Raises: ManifestError when it is on no disk."""
    if not entry.uri:
        return content_dir(part.manifest, part.folder) / entry.path
    said = urlsplit(entry.uri)
    if said.scheme != "file":
        raise ManifestError(f"{entry.uri[:200]!r} is no file of this machine")
    return Path(unquote(said.path))
