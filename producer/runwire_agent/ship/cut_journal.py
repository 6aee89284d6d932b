"""Journal of the metric cuts of all folders that one process ships, written before they are sent.

One line holds the cuts of one look: [[folder, first, last, number], ...]. After a crash every cut
without an acknowledgement is rebuilt exactly like this, so that a batch number of a writer has the
same content for ever. Where cuts of a folder overlap the one with the higher number holds: a batch
that brokers refused as too large was never stored, and is written down again in two halves.

Each process keeps a journal of its own in `<data root>/spool/.cuts`, named by its destination, and
locked. The reader lock of a folder is the right to its cuts: whoever holds it reads them in the
journals of all processes. The next process to start takes over the journals of dead ones.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from runwire_agent.ship.folder_cuts import BatchRange, FolderCuts, read_legacy
from runwire_disk.files import try_lock
from runwire_disk.line_log import LineLog, LogContent, read_log
from runwire_disk.paths import spool_dir
from runwire_disk.spool.format import Meta

__all__ = ["CutJournal", "read_cuts"]

FOLDER: Final = ".cuts"
LOG_SUFFIX, LOCK_SUFFIX = ".log", ".lock"
COMPACT_BYTES = 1024 * 1024  # read in some tens of milliseconds at the next start


@dataclass(slots=True)
class _Content:
    """Cuts of one journal by folder; `lost` is how many numbers damage may have swallowed."""

    cuts: dict[str, list[BatchRange]] = field(default_factory=dict)
    # (instant, numbers): of every folder whose writer started before.
    lost: list[tuple[int, int]] = field(default_factory=list)
    notice: str = ""


class CutJournal:
    """The journal of this process for one destination; its file appears with the first cut.

    `notices` are sentences about damage that were not logged yet. Threads: one.
    """

    def __init__(self, root: Path, destination: str) -> None:
        self._spool, self._destination = spool_dir(root), destination
        self.notices: list[str] = []
        self._path = self._spool / FOLDER / f"{destination}-{secrets.token_hex(4)}{LOG_SUFFIX}"
        self._log = LineLog(self._path)
        self._lock_fd = -1
        self._is_started = False
        self._compact_bytes = COMPACT_BYTES
        self._folders: dict[str, FolderCuts] = {}
        self._lost: list[tuple[int, int]] = []
        self._others: dict[Path, tuple[tuple[int, int], _Content]] = {}

    def open(self, folder: Path, meta: Meta, *, position: int, saved_batch_seq: int) -> FolderCuts:
        """Return the cuts of a folder whose reader lock is held, from its saved position on.

        Raises: OSError.
        """
        if not self._is_started:
            self._take_over()
            self._is_started = True
        cuts = self._folders.setdefault(folder.name, FolderCuts(folder.name))
        contents = self._contents_of_others()
        for content in contents:
            cuts.apply_all(content.cuts.get(folder.name, ()))
        legacy = read_legacy(folder)
        if legacy is not None:
            cuts.apply_all(legacy.cuts)
        cuts.forget(position, saved_batch_seq)
        lost = [row for content in contents for row in content.lost] + self._lost
        count = sum(count for at_ns, count in lost if meta.started_at_ns <= at_ns)
        count += legacy.lost if legacy is not None else 0
        if count:
            cuts.skip_numbers(count)
        if legacy is not None:
            self.notices += legacy.notices
            self._append((cuts, cut) for cut in cuts.needed())
            legacy.path.unlink()
        cuts.is_open = True
        return cuts

    def add(self, cuts: Iterable[tuple[FolderCuts, BatchRange]]) -> None:
        """Write cuts down for good. Blocks: one fdatasync for all. Raises: OSError."""
        fresh = list(cuts)
        if fresh:
            self._append(fresh)
            for folder, cut in fresh:
                folder.apply(cut)

    def forget(self, folder: FolderCuts, position: int, saved_batch_seq: int) -> None:
        """Drop the cuts that a folder's saved cursor covers. Raises: OSError."""
        folder.forget(position, saved_batch_seq)
        if self._log.size >= self._compact_bytes:
            self._rewrite()

    def release(self, folder: FolderCuts, *, is_deleted: bool = False) -> None:
        """Note that nobody holds the folder any more; what it needs is kept unless it is gone."""
        folder.is_open = False
        if is_deleted or folder.is_done:
            self._folders.pop(folder.name, None)

    def close(self) -> None:
        """Release the journal; it is deleted unless cuts of a folder are without acknowledgement.

        The cursors are saved. Raises: OSError.
        """
        if self._lock_fd >= 0 and not self._lost and not any(self._needed()):
            self._path.unlink(missing_ok=True)
            self._path.with_suffix(LOCK_SUFFIX).unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        """Release the files as they are: for a later process, or for the parent of this one."""
        self._log.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _append(self, cuts: Iterable[tuple[FolderCuts, BatchRange]]) -> None:
        line = [[folder.name, *cut] for folder, cut in cuts]
        if self._lock_fd < 0 or not self._log.is_linked():
            self._create()
        self._log.append([line])

    def _create(self) -> None:
        """Make the files, also again where somebody deleted them, with all that is known."""
        self.abandon()
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock_fd = os.open(self._path.with_suffix(LOCK_SUFFIX), flags, 0o600)
        try_lock(self._lock_fd)
        self._rewrite()

    def _rewrite(self) -> None:
        facts = [{"at": at_ns, "lost": count} for at_ns, count in self._lost]
        rows = [[cuts.name, *cut] for cuts in self._needed() for cut in cuts.needed()]
        self._log.rewrite([*facts, rows])
        self._compact_bytes = max(COMPACT_BYTES, 2 * self._log.size)

    def _needed(self) -> Iterator[FolderCuts]:
        for name, cuts in list(self._folders.items()):
            if cuts.is_done or not (self._spool / name).exists():
                if not cuts.is_open:
                    del self._folders[name]
            else:
                yield cuts

    def _take_over(self) -> None:
        """Copy the journals of dead processes into this one, then delete them."""
        taken: list[tuple[Path, int]] = []
        try:
            for path in _journals(self._spool, self._destination):
                fd = _lock_of_dead(path)
                if fd < 0:
                    continue
                taken.append((path, fd))
                content = _read(path)
                self._lost += content.lost
                self.notices += [content.notice] if content.notice else []
                for name, cuts in content.cuts.items():
                    self._folders.setdefault(name, FolderCuts(name)).apply_all(cuts)
            if any(self._needed()) or self._lost:
                self._create()
            for path, _ in taken:
                path.unlink(missing_ok=True)
                path.with_suffix(LOCK_SUFFIX).unlink(missing_ok=True)
        finally:
            for _, fd in taken:
                os.close(fd)

    def _contents_of_others(self) -> list[_Content]:
        """Return the journals of other processes, parsed again only when they changed."""
        contents = _read_all(self._spool, self._destination, self._content_of)
        for path in [path for path in self._others if not path.exists()]:
            del self._others[path]
        return contents

    def _content_of(self, path: Path) -> _Content:
        if path == self._path:
            return _Content()
        try:
            state = path.stat()
        except FileNotFoundError:
            return _Content()
        key = (state.st_mtime_ns, state.st_size)
        known = self._others.get(path)
        if known is None or known[0] != key:
            known = self._others[path] = (key, _read(path))
        return known[1]


def read_cuts(
    root: Path, destination: str, folder: Path, *, position: int, saved_batch_seq: int
) -> FolderCuts:
    """Return the cuts of a folder in all journals, which stay as they are. Raises: OSError."""
    cuts, lost = FolderCuts(folder.name), 0
    for content in _read_all(spool_dir(root), destination, _read):
        cuts.apply_all(content.cuts.get(folder.name, ()))
        lost += sum(count for _, count in content.lost)
    legacy = read_legacy(folder)
    if legacy is not None:
        cuts.apply_all(legacy.cuts)
        lost += legacy.lost
    cuts.forget(position, saved_batch_seq)
    if lost:
        cuts.skip_numbers(lost)
    return cuts


def _read_all(spool: Path, destination: str, read: Callable[[Path], _Content]) -> list[_Content]:
    """Return the content of every journal; one that went meanwhile was copied to another before."""
    while True:
        paths = _journals(spool, destination)
        contents = [read(path) for path in paths]
        if set(paths) <= set(_journals(spool, destination)):
            return contents


def _journals(spool: Path, destination: str) -> list[Path]:
    """Return the paths of all journals. Raises: OSError, where `glob` would find none."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(
            path
            for path in (spool / FOLDER).iterdir()
            if path.name.startswith(f"{destination}-") and path.suffix == LOG_SUFFIX
        )
    return []


def _lock_of_dead(path: Path) -> int:
    """Return the lock of a journal whose process is gone, taken; -1 while it lives."""
    try:
        fd = os.open(path.with_suffix(LOCK_SUFFIX), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return -1
    if try_lock(fd):
        return fd
    os.close(fd)
    return -1


def _read(path: Path) -> _Content:
    content = read_log(path)
    found = _Content()
    # The cuts of a line that misses its newline were not sent: `add` had not returned.
    unusable = sum(not _take(fact, found) for fact in content.facts)
    damaged = content.damaged + unusable
    if damaged:
        # Each fact that was lost may have been cuts: none of their numbers may come back.
        found.lost.append((time.time_ns(), _numbers_lost(content) + unusable))
        found.notice = (
            f"{damaged} lines of {path} are damaged; points get new batch numbers, so some may be "
            "counted twice in v_completeness. The tables' keys show each once"
        )
    return found


def _numbers_lost(content: LogContent) -> int:
    return max(content.facts_lost_max, content.damaged)


def _take(fact: Any, found: _Content) -> bool:
    """Take one line; false when it is none of this journal."""
    with contextlib.suppress(TypeError, ValueError, KeyError):
        if isinstance(fact, Mapping):
            found.lost.append((int(fact["at"]), int(fact["lost"])))
            return True
        rows = [(str(name), BatchRange(int(a), int(b), int(n))) for name, a, b, n in fact]
        for name, cut in rows:
            found.cuts.setdefault(name, []).append(cut)
        return True
    return False
