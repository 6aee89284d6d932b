"""Which spool folders there are, and which of them this worker reads.

Thousands of writers may sit idle, so a sweep never visits all of them: folders that had news the
last time are asked each time, the others in turn for as long as a small time budget lasts.
"""

import logging
from collections import deque
from pathlib import Path

from runwire_consumers.core.clock import Clock
from runwire_disk.paths import spool_dir
from runwire_disk.spool.cut import Cut
from runwire_disk.spool.format import ENDED_FILE, SpoolBusy, SpoolError
from runwire_disk.spool.progress import lifecycle_end
from runwire_disk.spool.reader import FolderReader, list_folders

_log = logging.getLogger("runwire.spool")

ROUTE = "local"
RESCAN_S = 0.2
BUSY_RETRY_S = 0.5
FOREIGN_RETRY_S = 5.0  # a folder of another route, or one that is not readable
# The agent looks twice a second and may just be starting; the points are stored either way.
AGENT_GRACE_S = 10.0
IDLE_BUDGET_S = 0.03  # of each sweep; about 300 idle folders


class Folders:
    """The open readers of all folders with the local route."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self._readers: dict[str, FolderReader] = {}
        self._inodes: dict[str, int] = {}
        self._hot: dict[str, None] = {}
        self._idle: deque[str] = deque()
        self._closed: dict[str, float] = {}  # name -> when to look at it again
        self._told: set[str] = set()
        self._drained_s: dict[str, float] = {}
        self._scanned_s = float("-inf")
        self._mtime_ns = -1

    def get(self, name: str) -> FolderReader | None:
        """Return the open reader of a folder."""
        return self._readers.get(name)

    def open(self, name: str) -> FolderReader:
        """Return the reader of a folder, opening it if need be.

        Raises: SpoolBusy, SpoolError.
        """
        reader = self._readers.get(name)
        if reader is None:
            reader = FolderReader(spool_dir(self._root) / name)
            self._readers[name] = reader
            self._inodes[name] = reader.folder.stat().st_ino
            self._hot[name] = None
        return reader

    def rescan(self) -> None:
        """Open folders that are new, or whose time to be asked again has come."""
        now_s = self._clock.monotonic_s()
        if now_s - self._scanned_s < RESCAN_S:
            return
        self._scanned_s = now_s
        for name in self._candidates(now_s):
            try:
                reader = self.open(name)
            except SpoolBusy:
                self._closed[name] = now_s + BUSY_RETRY_S
            except SpoolError as error:
                self._closed[name] = now_s + FOREIGN_RETRY_S
                self._tell_once(name, f"skipped for now: {error}")
            else:
                self._closed.pop(name, None)
                if reader.meta.route != ROUTE:
                    self._close(name)
                    self._closed[name] = now_s + FOREIGN_RETRY_S

    def sweep(self) -> list[tuple[str, list[Cut]]]:
        """Return the next cuts of every folder that has news, one read each."""
        found: list[tuple[str, list[Cut]]] = []
        for name in list(self._hot):
            cuts = self._cut(name)
            if cuts:
                found.append((name, cuts))
            elif name in self._readers:
                del self._hot[name]
                self._idle.append(name)
        end_s = self._clock.monotonic_s() + IDLE_BUDGET_S
        for _ in range(len(self._idle)):
            name = self._idle.popleft()
            if name not in self._readers:
                continue
            cuts = self._cut(name)
            if cuts:
                self._hot[name] = None
                found.append((name, cuts))
            elif name in self._readers:
                self._idle.append(name)
            if self._clock.monotonic_s() >= end_s:
                break
        return found

    def save(self, name: str) -> None:
        """Write a folder's cursor; a folder that somebody deleted meanwhile is let go."""
        try:
            self._readers[name].save()
        except FileNotFoundError:
            self._lose(name)

    def close(self) -> None:
        """Release every folder."""
        for name in list(self._readers):
            self._close(name)

    def _candidates(self, now_s: float) -> list[str]:
        due = [name for name, at_s in self._closed.items() if at_s <= now_s]
        try:
            mtime_ns = spool_dir(self._root).stat().st_mtime_ns
        except FileNotFoundError:
            return []
        if mtime_ns != self._mtime_ns:  # an entry came or went
            self._mtime_ns = mtime_ns
            self._lose_replaced()
            names = {folder.name for folder in list_folders(self._root)}
            for gone in set(self._closed) - names:
                del self._closed[gone]
            due += sorted(names - set(self._readers) - set(self._closed))
        return due

    def _cut(self, name: str) -> list[Cut]:
        reader = self._readers[name]
        try:
            cuts = reader.cut()
        except FileNotFoundError:
            self._lose(name)
            return []
        except Exception as error:
            error.add_note(f"while reading spool folder {reader.folder}")
            raise
        if not cuts and reader.drained and self._is_settled(name, reader):
            del self._readers[name]
            self._hot.pop(name, None)
            self._drained_s.pop(name, None)
            reader.remove()
        return cuts

    def _is_settled(self, name: str, reader: FolderReader) -> bool:
        """Whether nobody needs a drained folder any more.

        The agent learns from it that a trainer died, and says so; without an agent nobody will.
        """
        if reader.meta.role != "trainer" or (reader.folder / ENDED_FILE).exists():
            return True
        now_s = self._clock.monotonic_s()
        since_s = self._drained_s.get(name)
        if since_s is None:
            self._drained_s[name] = now_s
            return reader.meta.worker_of is None and lifecycle_end(reader.folder)[0]
        return now_s - since_s >= AGENT_GRACE_S

    def _lose_replaced(self) -> None:
        """Let go of folders that were deleted; a live writer makes a new one of the same name."""
        for name, reader in list(self._readers.items()):
            try:
                same = reader.folder.stat().st_ino == self._inodes[name]
            except FileNotFoundError:
                same = False
            if not same:
                self._lose(name)

    def _lose(self, name: str) -> None:
        _log.warning("spool folder %s was deleted while it was being read", name)
        self._close(name)

    def _close(self, name: str) -> None:
        self._hot.pop(name, None)
        self._readers.pop(name).close()

    def _tell_once(self, name: str, sentence: str) -> None:
        if name not in self._told:
            self._told.add(name)
            _log.warning("%s", sentence)
