"""A folder of the outbox while its call fills it: its caller's alone, then the agent's or gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self

from runwire_disk.outbox.request import (
    CAPTURE_LOCK,
    CONTENT_DIR,
    REQUEST_FILE,
    UploadRequest,
    commit_staged,
)

__all__ = ["Staged"]


class Staged:
    """Content and request of one artifact, not committed yet. Threads: one.

    As a context it leaves no trace of what was not committed. While its caller lives no agent takes
    it for an abandoned one. Raises: OSError.
    """

    request: UploadRequest

    def __init__(self, folder: Path, size: int) -> None:
        """Make the folder; `size` is how many bytes it may take of the outbox."""
        self.folder = folder
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        try:
            # A file object, so that the lock ends with it whatever strikes.
            self._lock = open(folder / CAPTURE_LOCK, "xb", buffering=0, opener=_private)  # noqa: SIM115
            self._fill(size)
        except BaseException:
            _discard(folder)
            raise

    def _fill(self, size: int) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock.write(b"%d" % size)
            (self.folder / CONTENT_DIR).mkdir(mode=0o700)
        except BaseException:
            self._lock.close()
            raise

    def stage(self, request: UploadRequest) -> None:
        """Write the request down; only the commit is missing now."""
        request.stage(self.folder)
        self.request = request

    def commit(self) -> None:
        """Give it to the agent."""
        commit_staged(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            # Once committed it is the agent's, even if a signal struck between here and there.
            if not (self.folder / REQUEST_FILE).exists():
                _discard(self.folder)
        finally:
            self._lock.close()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _discard(folder: Path) -> None:
    """Remove a folder that was never committed."""
    for path in (folder / CONTENT_DIR, folder):
        with contextlib.suppress(OSError):
            for entry in os.scandir(path):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108 - a hundred thousand of them
            path.rmdir()
