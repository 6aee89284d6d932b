"""Checkpoints on this machine's disk: published whole, verified, pruned, deleted.

    <checkpoint dir>/<run key>/<step>-<artifact>/{state.pt[.zst], manifest.json}
    <checkpoint dir>/<run key>/.new-<artifact>-<random>/    being written
    <checkpoint dir>/<run key>/.old-<artifact>-<random>/    being deleted

A folder is made under its hidden name, synced, and renamed; deleting renames it back first. So a
crash between any two system calls leaves every visible folder whole. Writers share a lock; the
sweep, which deletes the hidden folders of dead writers, takes it alone.

Files of foreign checkpoints are never touched: only our note about them is deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from runwire.checkpoints.state_file import PACKED_STATE_FILE, STATE_FILE, digest_of
from runwire.errors import CheckpointError
from runwire_disk.files import descriptor_shortage, remove_tree, sync_file
from runwire_disk.interrupts import reraise_interrupt, suppressed
from runwire_schemas.identity import run_key
from runwire_store.checkpoints import CheckpointView, group_checkpoints, manifests_without
from runwire_store.folder.files import sync_folder
from runwire_store.manifest import FileEntry, Manifest, ManifestError
from runwire_store.retention import Retention, expired

if TYPE_CHECKING:
    from runwire.settings import Settings
    from runwire_disk.spool.format import Meta

__all__ = [
    "FOREIGN",
    "MANIFEST_FILE",
    "MTIMES",
    "DamagedCheckpoint",
    "LocalCheckpoints",
    "LocalPart",
    "VerifiedPart",
    "content_dir",
    "path_of",
    "verify",
    "was_saved_by_us",
]

MANIFEST_FILE: Final = "manifest.json"
CONTENT_DIR: Final = "content"
# In the metadata of a note about foreign files: when each was last written.
MTIMES: Final = "mtime_ns"
# In the metadata of every checkpoint that log_checkpoint made, here and in the store.
FOREIGN: Final = "of_others"
_LOCK_FILE: Final = ".lock"
_FETCH_FILE: Final = ".fetch"
_NEW, _OLD = ".new-", ".old-"
_NAME = re.compile(r"[0-9]{19}-[0-9a-f]{32}")
# Ranks are at most one save apart, so the save before the latest is one that all of them have.
_APART: Final = 2


class DamagedCheckpoint(CheckpointError):  # noqa: N818 - a state of the checkpoint
    """The content of a checkpoint differs from what was saved, or is missing."""


@dataclass(frozen=True, slots=True)
class LocalPart:
    """One rank's part of a checkpoint, whole on this disk."""

    manifest: Manifest
    folder: Path


@dataclass(frozen=True, kw_only=True)
class VerifiedPart:
    """One rank's part of a checkpoint, verified; `files` are the paths of its content."""

    manifest: Manifest
    folder: Path
    files: tuple[Path, ...] = ()

    @property
    def path(self) -> Path:
        """The file, or the folder of several."""
        first = self.files[0]
        if len(self.files) == 1:
            return first
        return first.parents[self.manifest.files[0].path.count("/")]


class LocalCheckpoints:
    """The checkpoints of one run on this disk. Threads: safe; processes too."""

    def __init__(self, checkpoint_dir: Path, project: str, run_id: str) -> None:
        self.folder = checkpoint_dir / run_key(project, run_id).hex()
        self._run = (project, run_id)

    @classmethod
    def of(cls, settings: Settings, meta: Meta, run_id: str | None = None) -> LocalCheckpoints:
        """Return those of a process's run, or of another run of its project."""
        chosen = settings.checkpoint_dir
        folder = Path(chosen).expanduser().absolute() if chosen else settings.root / "checkpoints"
        return cls(folder, meta.project, run_id or meta.run_id)

    @contextlib.contextmanager
    def writing(self, artifact: str) -> Iterator[Path]:
        """Yield an empty hidden folder for a new checkpoint; deleted at the end if not published.

        Raises: OSError.
        """
        _make_folders(self.folder)
        hidden = self.folder / _hidden(_NEW, artifact)
        with self._locked():
            try:
                hidden.mkdir(mode=0o700)
                yield hidden
            finally:
                remove_tree(hidden)

    def prepare(self, hidden: Path, manifest: Manifest) -> None:
        """Complete a hidden folder; its files are synced already.

        Raises: OSError. Blocks: two fsyncs.
        """
        path = hidden / MANIFEST_FILE
        path.write_bytes(manifest.to_json())
        sync_file(path)
        sync_folder(hidden)

    def publish(self, hidden: Path, manifest: Manifest) -> LocalPart:
        """Make a folder that is prepared the checkpoint of `manifest`, durably.

        Raises: OSError. Blocks: one fsync.
        """
        final = self.place(manifest)
        hidden.rename(final)
        sync_folder(self.folder)
        return LocalPart(manifest, final)

    def place(self, manifest: Manifest) -> Path:
        """Return the folder that a published checkpoint has."""
        return self.folder / _folder_name(manifest)

    def parts(self, damaged: list[str] | None = None) -> list[LocalPart]:
        """Return the complete checkpoints in the order of steps.

        Damaged manifests are left out; `damaged` gets a sentence about each.
        Raises: OSError when the folder exists and cannot be read, or no descriptor is left.
        """
        try:
            names = sorted(os.listdir(self.folder))  # noqa: PTH208 - names are all that is needed
        except FileNotFoundError:
            return []
        parts = []
        for name in names:
            if not _NAME.fullmatch(name):
                continue
            try:
                parts.append(self._part(name))
            except FileNotFoundError:
                continue  # removed just now
            except (OSError, ValueError, TypeError, RecursionError) as error:
                reraise_interrupt(error)
                if isinstance(error, OSError) and descriptor_shortage(error):
                    raise  # it is as good as it was
                if damaged is not None:
                    damaged.append(f"{self.folder / name / MANIFEST_FILE}: {error}")
        return parts

    def remove(self, part: LocalPart) -> None:
        """Delete one checkpoint: hide its folder first, then delete the files.

        Raises: OSError.
        """
        hidden = self.folder / _hidden(_OLD, part.manifest.artifact)
        with suppressed(FileNotFoundError):  # another process was faster
            part.folder.rename(hidden)
        remove_tree(hidden)

    def prune(self, saved: LocalPart, rules: Retention) -> list[LocalPart]:
        """Delete the checkpoints that expire now that `saved` is there; return them.

        The agent and the object worker do the same in the store. Raises: OSError.
        """
        if rules.keeps_all:
            return []
        parts = self.parts()
        views = group_checkpoints(part.manifest for part in parts)
        facts = saved.manifest.checkpoint
        assert facts is not None
        if facts.kind == "sharded" and not any(v.is_complete for v in views if v.kind == "sharded"):
            gone = _own_expired(parts, saved.manifest.rank, rules)
        else:
            folders = {part.manifest.artifact: part for part in parts}
            manifests = manifests_without(views, expired(views, rules))
            gone = [folders[manifest.artifact] for manifest in manifests]
        for part in gone:
            self.remove(part)
        return gone

    @contextlib.contextmanager
    def fetching(self) -> Iterator[None]:
        """Hold the lock by which one rank of this disk downloads a checkpoint while others wait."""
        _make_folders(self.folder)
        with _open_lock(self.folder / _FETCH_FILE) as descriptor:
            with suppressed(OSError):  # without locks each rank downloads its own
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield

    def _part(self, name: str) -> LocalPart:
        folder = self.folder / name
        manifest = Manifest.from_json((folder / MANIFEST_FILE).read_bytes())
        is_of_run = (manifest.project, manifest.run_id) == self._run
        if manifest.checkpoint is None or not is_of_run or _folder_name(manifest) != name:
            raise ManifestError("it was copied or renamed: it belongs to another run or step")
        return LocalPart(manifest, folder)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with _open_lock(self.folder / _LOCK_FILE) as descriptor:
            # File systems without locks: nothing is swept there, everything else works.
            with suppressed(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._sweep()
            with suppressed(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield

    def _sweep(self) -> None:
        """Delete the hidden folders of dead writers; nobody writes while this runs."""
        for entry in os.scandir(self.folder):
            if entry.name.startswith((_NEW, _OLD)):
                remove_tree(entry.path)


def _hidden(prefix: str, artifact: str) -> str:
    return f"{prefix}{artifact}-{os.urandom(4).hex()}"


@contextlib.contextmanager
def _open_lock(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _folder_name(manifest: Manifest) -> str:
    assert manifest.checkpoint is not None
    return f"{manifest.checkpoint.step:019d}-{manifest.artifact}"


def _make_folders(folder: Path) -> None:
    """Make missing folders so that they survive a power cut. Raises: OSError."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    with suppressed(FileExistsError):
        folder.mkdir(mode=0o700)
        sync_folder(folder.parent)


def _own_expired(parts: Sequence[LocalPart], rank: int, rules: Retention) -> list[LocalPart]:
    """Return this rank's expired parts; the other ranks' disks cannot be seen."""
    own = {part.manifest.artifact: part for part in parts if part.manifest.rank == rank}
    views = [view for part in own.values() if (view := _as_complete(part.manifest)) is not None]
    safe_rules = replace(rules, keep_last=max(rules.keep_last, _APART))
    return [own[view.first.artifact] for view in expired(views, safe_rules)]


def _as_complete(manifest: Manifest) -> CheckpointView | None:
    """Return a part as a checkpoint of its own, complete without the other ranks."""
    if manifest.checkpoint is None:
        return None
    whole = replace(manifest, checkpoint=replace(manifest.checkpoint, kind="full"))
    step = manifest.checkpoint.step
    return CheckpointView(step=step, attempt=manifest.attempt, manifests={manifest.rank: whole})


def was_saved_by_us(manifest: Manifest) -> bool:
    """Return whether save_checkpoint wrote the content; foreign files may have the same name."""
    if FOREIGN in manifest.metadata or MTIMES in manifest.metadata:
        return False
    return _is_state_file(manifest)


def content_dir(manifest: Manifest, folder: Path) -> Path:
    """Return the folder of the content; that of foreign files is below, apart from our manifest."""
    return folder if _is_state_file(manifest) else folder / CONTENT_DIR


def _is_state_file(manifest: Manifest) -> bool:
    return [entry.path for entry in manifest.files] in ([STATE_FILE], [PACKED_STATE_FILE])


def verify(part: LocalPart, stored: Manifest | None) -> VerifiedPart:
    """Return a part on this disk after checking that it is unchanged.

    `stored` is its manifest in the store, if there is one: a note about foreign files has no
    digests, and the agent has computed them since.
    Raises: DamagedCheckpoint, OSError. Blocks: reads it.
    """
    digests = {} if stored is None else {entry.path: entry.sha256 for entry in stored.files}
    paths = tuple(_check_files(part, digests))
    return VerifiedPart(manifest=part.manifest, folder=part.folder, files=paths)


def _check_files(part: LocalPart, digests: Mapping[str, str]) -> Iterator[Path]:
    mtimes = part.manifest.metadata.get(MTIMES, {})
    for entry in part.manifest.files:
        path = path_of(part, entry)
        state = path.stat()
        if state.st_size != entry.size:
            raise DamagedCheckpoint(f"{path} has {state.st_size} bytes, {entry.size} were saved")
        # Our own manifests have digests; the store's are used only where the note has none.
        if digest := entry.sha256 or digests.get(entry.path, ""):
            if digest_of(path) != digest:
                raise DamagedCheckpoint(
                    f"{path} is damaged: its SHA-256 is not the one that was saved"
                )
        elif mtimes.get(entry.path) != state.st_mtime_ns:
            raise DamagedCheckpoint(f"{path} was written again after it was logged")
        yield path


def path_of(part: LocalPart, entry: FileEntry) -> Path:
    """Return the path of a file of a part. Raises: ManifestError when it is not on a disk."""
    if not entry.uri:
        return content_dir(part.manifest, part.folder) / entry.path
    address = urlsplit(entry.uri)
    if address.scheme != "file":
        raise ManifestError(f"{entry.uri[:200]!r} is not a file of this machine")
    return Path(unquote(address.path))
