"""Requests of the outbox: every agent of the data root sees them, one at a time claims each."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from runwire_disk.files import is_locked, try_lock
from runwire_disk.outbox.request import (
    CAPTURE_LOCK,
    REQUEST_FILE,
    NewerRequestError,
    UploadRequest,
    commit_staged,
    outbox_dir,
)

__all__ = ["Claim", "OutboxRequests", "set_aside"]

_log = logging.getLogger("runwire.agent")
LOCK_FILE: Final = "upload.lock"
REASON_FILE: Final = "reason.txt"
FAILED_PREFIX: Final = "failed-"
DONE_PREFIX: Final = ".done-"
# A call holds its lock; this covers the moment before, and a child that it forked meanwhile.
UNCOMMITTED_S = 600.0
# Bounds of the failed requests that are kept for a person.
FAILED_MAX, FAILED_S_MAX, FAILED_BYTES_MAX = 20, 7 * 24 * 3600.0, 1024**3
TIDY_S = 60.0
# While a store is unreachable thousands may wait: a look takes long, and several agents look twice
# a second.
MANY, LOOK_SHARE, LOOK_REST_S_MAX = 256, 0.05, 5.0


class Claim:
    """One request whose folder this process alone works on, until it is removed or released."""

    def __init__(self, folder: Path, request: UploadRequest, fd: int) -> None:
        self.folder, self.request = folder, request
        self._fd = fd

    def remove(self) -> None:
        """Delete the request and its content from the outbox. Blocks: while content is deleted."""
        gone = self.folder.with_name(DONE_PREFIX + self.folder.name)
        with contextlib.suppress(OSError):
            self.folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        self.release()

    def fail(self, reason: str) -> None:
        """Set the folder aside with the reason, for a person."""
        set_aside(self.folder, reason)
        self.release()

    def release(self) -> None:
        """Release the folder, so that another process can claim it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OutboxRequests:
    """Requests of a data root that `accepts` selects, oldest first. Threads: any."""

    def __init__(self, root: Path, accepts: Callable[[UploadRequest], bool]) -> None:
        self._outbox, self._accepts = outbox_dir(root), accepts
        self._known: dict[str, tuple[int, UploadRequest]] = {}
        self._tidied_s = float("-inf")
        self._logged: set[str] = set()
        self._found: list[tuple[Path, UploadRequest]] = []
        self._fresh_until_s = float("-inf")
        self._lock = threading.Lock()

    def look(self) -> list[tuple[Path, UploadRequest]]:
        """Return the requests that wait, claimed or not.

        Above MANY of them the answer may be LOOK_REST_S_MAX old.
        """
        with self._lock:
            began_s = time.monotonic()
            if began_s >= self._fresh_until_s:
                self._found = self._look()
                if len(self._known) >= MANY:
                    took_s = time.monotonic() - began_s
                    self._fresh_until_s = began_s + min(LOOK_REST_S_MAX, took_s / LOOK_SHARE)
            return list(self._found)

    def _look(self) -> list[tuple[Path, UploadRequest]]:
        try:
            names = [entry.name for entry in os.scandir(self._outbox)]
        except OSError:
            self._known.clear()
            return []
        self._tidy(names)
        self._known = {name: self._known[name] for name in names if name in self._known}
        for name in names:
            if not name.startswith((".", FAILED_PREFIX)):
                self._read(name)
        found = [
            (self._outbox / name, request)
            for name, (_, request) in self._known.items()
            if self._accepts(request)
        ]
        return sorted(found, key=lambda entry: (entry[1].created_at_ns, entry[0]))

    def claim(self, folder: Path) -> Claim | None:
        """Claim one request; None when another process has it, or it is gone."""
        try:
            fd = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            # After the open the folder may have been removed: then the lock guards nothing.
            if try_lock(fd) and os.path.samestat(os.fstat(fd), (folder / LOCK_FILE).stat()):
                request = UploadRequest.read(folder)
                if self._accepts(request):  # its destination may have changed
                    return Claim(folder, request, fd)
        except (OSError, ValueError):
            pass
        os.close(fd)
        return None

    def _read(self, name: str) -> None:
        folder = self._outbox / name
        try:
            changed_ns = (folder / REQUEST_FILE).stat().st_mtime_ns
            if name in self._known and self._known[name][0] == changed_ns:
                return
            self._known[name] = (changed_ns, UploadRequest.read(folder))
        except OSError:
            self._known.pop(name, None)  # not committed yet, or gone
        except NewerRequestError as error:
            self._known.pop(name, None)
            if name not in self._logged:
                self._logged.add(name)
                _log.error("an artifact waits for an agent that can read it: %s", error)
        except ValueError as error:
            self._known.pop(name, None)
            _log.error("an artifact cannot be uploaded: %s", error)
            set_aside(folder, str(error))

    def _tidy(self, names: list[str]) -> None:
        """Delete leftovers of interrupted calls and agents, and the oldest failed requests."""
        now_s = time.monotonic()
        if now_s - self._tidied_s < TIDY_S:
            return
        self._tidied_s = now_s
        for name in names:
            folder = self._outbox / name
            if name.startswith(DONE_PREFIX):
                shutil.rmtree(folder, ignore_errors=True)
            elif not name.startswith(FAILED_PREFIX):
                _finish_interrupted(folder)
        _bound_failed([self._outbox / name for name in names if name.startswith(FAILED_PREFIX)])


def read_waiting(root: Path) -> Iterator[UploadRequest]:
    """Yield the committed requests; changes nothing, unlike `Requests.look`."""
    for folder in _list_outbox(root):
        if not folder.name.startswith((".", FAILED_PREFIX)):
            with contextlib.suppress(OSError, ValueError):  # not committed, gone, or damaged
                yield UploadRequest.read(folder)


def read_failed(root: Path) -> dict[str, str]:
    """Return the folders of requests that failed for good, with their reasons."""
    failed: dict[str, str] = {}
    for folder in _list_outbox(root):
        if folder.name.startswith(FAILED_PREFIX):
            try:
                reason = (folder / REASON_FILE).read_text("utf-8", "replace").strip()
            except OSError:
                reason = "no reason is recorded"
            failed[folder.name] = reason
    return failed


def _list_outbox(root: Path) -> list[Path]:
    try:
        return sorted(outbox_dir(root).iterdir())
    except OSError:
        return []


def set_aside(folder: Path, reason: str) -> None:
    """Rename a request that can never be uploaded, with the reason beside it."""
    try:
        (folder / REASON_FILE).write_text(f"{reason}\n", "utf-8")
        folder.rename(folder.with_name(FAILED_PREFIX + folder.name))
    except OSError as error:
        _log.warning("%s cannot be set aside: %s", folder, error)


def _finish_interrupted(folder: Path) -> None:
    """Commit the request of a call that died if it was promised, else delete it."""
    is_promised = _is_promised(folder)
    if (is_promised or _is_old(folder)) and _is_interrupted(folder):
        if is_promised:
            with contextlib.suppress(OSError):  # another agent was faster
                commit_staged(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _is_promised(folder: Path) -> bool:
    """Whether the path that the staged request awaits exists."""
    try:
        awaits = UploadRequest.read_staged(folder).awaits
    except (OSError, ValueError):
        return False
    return bool(awaits) and Path(awaits).exists()


def _is_old(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_ctime >= UNCOMMITTED_S
    except OSError:
        return False


def _is_interrupted(folder: Path) -> bool:
    """Whether the call died before the commit; a fresh folder may just be taking the lock."""
    if (folder / REQUEST_FILE).exists():
        return False
    lock = folder / CAPTURE_LOCK
    if lock.exists() and not os.access(lock, os.R_OK):
        return False  # of another user: whether its call lives cannot be seen
    return not is_locked(lock) and not (folder / REQUEST_FILE).exists()


def _bound_failed(folders: list[Path]) -> None:
    aged = []
    for folder in folders:
        with contextlib.suppress(OSError):
            aged.append((folder.stat().st_ctime, folder))
    left = FAILED_BYTES_MAX
    for number, (at_s, folder) in enumerate(sorted(aged, reverse=True)):
        left -= sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if number >= FAILED_MAX or left < 0 or time.time() - at_s > FAILED_S_MAX:
            shutil.rmtree(folder, ignore_errors=True)
