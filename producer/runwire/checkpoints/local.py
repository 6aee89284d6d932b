"""Checkpoints on this machine's disk: each a folder that appears whole or not at all.

    <checkpoint dir>/<run key>/<step>-<artifact>/{state.pt[.zst], manifest.json}
    <checkpoint dir>/<run key>/.new-<artifact>-<random>/    being written
    <checkpoint dir>/<run key>/.old-<artifact>-<random>/    being deleted

A folder is made under its hidden name, synced, and renamed; deleting renames it back first. So a
crash between any two system calls leaves every visible folder whole. Writers share a lock that only
the sweep of what dead writers left takes alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runwire_disk.files import sync_file
from runwire_schemas.identity import run_key
from runwire_store.folder.files import sync_folder
from runwire_store.manifest import Manifest, ManifestError

__all__ = ["MANIFEST_FILE", "LocalCheckpoints", "LocalPart"]

MANIFEST_FILE: Final = "manifest.json"
_LOCK_FILE: Final = ".lock"
_FETCH_FILE: Final = ".fetch"
_NEW, _OLD = ".new-", ".old-"
_NAME = re.compile(r"[0-9]{19}-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class LocalPart:
    """One rank's part of a checkpoint, whole on this disk."""

    manifest: Manifest
    folder: Path


class LocalCheckpoints:
    """The checkpoints of one run on this disk. Threads: safe; processes too."""

    def __init__(self, checkpoint_dir: Path, project: str, run_id: str) -> None:
        self.folder = checkpoint_dir / run_key(project, run_id).hex()
        self._run = (project, run_id)

    @contextlib.contextmanager
    def writing(self, artifact: str) -> Iterator[Path]:
        """Yield an empty hidden folder for a new checkpoint; what is not published goes again.

        Raises: OSError.
        """
        _make_folders(self.folder)
        hidden = self.folder / _hidden(_NEW, artifact)
        with self._locked():
            hidden.mkdir(mode=0o700)
            try:
                yield hidden
            finally:
                shutil.rmtree(hidden, ignore_errors=True)

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
        """Return what is whole, in the order of steps.

        Damaged manifests are left out; `damaged` gets a sentence about each.
        Raises: OSError when the folder exists and cannot be read.
        """
        try:
            names = sorted(os.listdir(self.folder))  # noqa: PTH208 - names are all that is needed
        except FileNotFoundError:
            return []
        found = []
        for name in names:
            if not _NAME.fullmatch(name):
                continue
            try:
                found.append(self._part(name))
            except FileNotFoundError:
                continue  # removed in this moment
            except (OSError, ValueError, TypeError, RecursionError) as error:
                if damaged is not None:
                    damaged.append(f"{self.folder / name / MANIFEST_FILE}: {error}")
        return found

    def remove(self, part: LocalPart) -> None:
        """Delete one checkpoint: first it is no checkpoint any more, then its files go.

        Raises: OSError.
        """
        hidden = self.folder / _hidden(_OLD, part.manifest.artifact)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            part.folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    @contextlib.contextmanager
    def fetching(self) -> Iterator[None]:
        """Hold what lets one rank of this disk bring a checkpoint while the others wait for it."""
        _make_folders(self.folder)
        with _opened(self.folder / _FETCH_FILE) as descriptor:
            with contextlib.suppress(OSError):  # without locks each brings its own
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield

    def _part(self, name: str) -> LocalPart:
        folder = self.folder / name
        manifest = Manifest.from_json((folder / MANIFEST_FILE).read_bytes())
        is_of_run = (manifest.project, manifest.run_id) == self._run
        if manifest.checkpoint is None or not is_of_run or _folder_name(manifest) != name:
            raise ManifestError("it was copied or renamed: it is of another run or step")
        return LocalPart(manifest, folder)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with _opened(self.folder / _LOCK_FILE) as descriptor:
            # File systems without locks: nothing is swept there, all else works.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._sweep()
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield

    def _sweep(self) -> None:
        """Remove what writers left that died; nobody writes while this runs."""
        for entry in os.scandir(self.folder):
            if entry.name.startswith((_NEW, _OLD)):
                shutil.rmtree(entry.path, ignore_errors=True)


def _hidden(prefix: str, artifact: str) -> str:
    return f"{prefix}{artifact}-{os.urandom(4).hex()}"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
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
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        sync_folder(folder.parent)
