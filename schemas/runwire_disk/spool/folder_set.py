"""Set of the spool folders that one reader holds: finds them, visits them, lets go of them.

Thousands of writers may sit idle, so a round never visits all of them: folders that had news the
last time are visited in every round, the others in turn for as long as a small time budget lasts.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from runwire_disk.paths import spool_dir
from runwire_disk.spool.format import ENDED_FILE, Meta, SpoolBusy, SpoolError
from runwire_disk.spool.progress import lifecycle_end
from runwire_disk.spool.reader import list_folders, read_meta

__all__ = ["Accepts", "FolderSet", "HeldFolder", "LookPace"]

_log = logging.getLogger("runwire.spool")

RESCAN_S = 0.2
BUSY_RETRY_S = 0.5  # another process reads the folder
SKIPPED_RETRY_S = 2.0  # the folder has another destination, or cannot be read for now
IDLE_BUDGET_S = 0.03  # of each round; about 300 idle folders
# The agent looks twice a second and may just be starting; the points are delivered either way.
AGENT_GRACE_S = 10.0

IDLE_LOOK_S = 0.1  # how often an idle spool is looked at
MUCH_BYTES = 128 * 1024  # after this much the next look is worth while at once
REST_SHARE = 3  # rest this many times as long as a look took

Accepts = Callable[[Path, Meta], bool]


class HeldFolder(Protocol):
    """One folder in the hands of its one reader: a `FolderReader`, or an object that has one."""

    @property
    def folder(self) -> Path:
        """Path of the folder."""
        ...

    @property
    def meta(self) -> Meta:
        """Identity of the writer."""
        ...

    @property
    def drained(self) -> bool:
        """Whether the writer is gone and everything it committed is delivered."""
        ...

    def save(self) -> None:
        """Write the committed position beside the segments. Raises: OSError."""
        ...

    def remove(self) -> None:
        """Delete the folder and release it."""
        ...

    def close(self) -> None:
        """Release the folder."""
        ...


H = TypeVar("H", bound=HeldFolder)


@dataclass(slots=True)
class LookPace:
    """Time of the next look at the folders: at once after much news, else after a rest.

    After little news it waits `gather_s` for more. A look that took long is followed by a longer
    rest, of at most `rest_s_max`.
    """

    gather_s: float
    rest_s_max: float
    next_s: float = float("-inf")

    def note(self, *, begin_s: float, end_s: float, has_news: bool, news_bytes: int) -> None:
        """Plan the next look after one from `begin_s` to `end_s`."""
        if news_bytes >= MUCH_BYTES:
            self.next_s = end_s
            return
        rest_s = min(self.rest_s_max, REST_SHARE * (end_s - begin_s))
        self.next_s = end_s + max(self.gather_s if has_news else IDLE_LOOK_S, rest_s)

    def hurry(self) -> None:
        """Make the next look due now."""
        self.next_s = float("-inf")


@dataclass(slots=True)
class _Place(Generic[H]):
    """One held folder, and what must be forgotten with it."""

    held: H
    inode: int
    drained_s: float | None = None


class FolderSet(Generic[H]):
    """The folders under `<root>/spool` that `is_mine` accepts, each opened by `open_folder`.

    A drained folder is deleted, unless `stays` says that a person must look at it. `busy` holds
    the folders that another process reads, `kept` those that stay. Threads: one.
    """

    def __init__(
        self,
        root: Path,
        open_folder: Callable[[Path], H],
        *,
        is_mine: Accepts,
        stays: Callable[[H], bool] = lambda _: False,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root, self._open_folder, self._is_mine = root, open_folder, is_mine
        self._stays, self._clock = stays, monotonic_s
        self.busy: set[Path] = set()
        self.kept: set[Path] = set()
        self._places: dict[Path, _Place[H]] = {}
        self._hot: dict[Path, None] = {}
        self._idle: OrderedDict[Path, None] = OrderedDict()
        self._closed: dict[Path, float] = {}  # folder -> when to look at it again
        self._logged: set[Path] = set()
        self._scanned_s = float("-inf")
        self._mtime_ns = -1

    def get(self, folder: Path) -> H | None:
        """Return the open reader of a folder."""
        place = self._places.get(folder)
        return None if place is None else place.held

    def readers(self) -> list[H]:
        """Return the open readers; any of them may be released meanwhile."""
        return [place.held for place in self._places.values()]

    @property
    def remembered(self) -> set[Path]:
        """Every folder of which something is kept in memory."""
        return set(self._places).union(
            self.busy, self.kept, self._hot, self._idle, self._closed, self._logged
        )

    def hold(self, folder: Path) -> H:
        """Return the reader of a folder, opened if need be, also where `is_mine` refuses it.

        Raises: SpoolBusy, SpoolError, OSError.
        """
        place = self._places.get(folder)
        if place is None:
            held = self._open_folder(folder)
            try:
                place = _Place(held, folder.stat().st_ino)
            except OSError:
                held.close()
                raise
            self._places[folder] = place
            self._hot[folder] = None
            self._closed.pop(folder, None)
            self.busy.discard(folder)
        return place.held

    def rescan(self, *, at_once: bool = False) -> None:
        """Open folders that are new, or that are due for another try."""
        now_s = self._clock()
        if now_s - self._scanned_s < RESCAN_S and not at_once:
            return
        self._scanned_s = now_s
        for folder in self._due(now_s):
            self._closed[folder] = now_s + SKIPPED_RETRY_S
            self.busy.discard(folder)
            try:
                self._try_open(folder)
            except SpoolBusy:
                self.busy.add(folder)
                self._closed[folder] = now_s + BUSY_RETRY_S
            except (SpoolError, OSError) as error:
                if folder.exists():
                    self.log_once(folder, f"cannot be read for now: {error}")

    def visit(
        self, take: Callable[[H], int], *, has_room: Callable[[], bool] = lambda: True
    ) -> int:
        """Call `take` for readers in turn while there is room; return the sum of its results.

        Its result is 0 when the folder had no news. Raises: any error of `take`, but
        FileNotFoundError: that folder was deleted, and is let go.
        """
        news = 0
        for folder in list(self._hot):
            if not has_room():
                return news
            news += self.visit_one(folder, take)
        end_s = self._clock() + IDLE_BUDGET_S
        for _ in range(len(self._idle)):
            if not has_room() or self._clock() >= end_s or not self._idle:
                break
            news += self.visit_one(next(iter(self._idle)), take)
        return news

    def visit_one(self, folder: Path, take: Callable[[H], int]) -> int:
        """Call `take` for one held folder; as `visit`."""
        place = self._places[folder]
        try:
            news = take(place.held)
        except FileNotFoundError:
            self.lose(folder)
            return 0
        if self._places.get(folder) is not place:
            return news
        self._hot.pop(folder, None)
        self._idle.pop(folder, None)
        if news:
            self._hot[folder] = None
            return news
        self._idle[folder] = None
        if place.held.drained and self._is_settled(folder, place):
            self._retire(folder, place)
        return 0

    def save(self, folder: Path) -> None:
        """Write a folder's cursor; a folder that was deleted is let go. Raises: OSError."""
        try:
            self._places[folder].held.save()
        except FileNotFoundError:
            self.lose(folder)

    def release(self, folder: Path, *, retry_s: float | None = None) -> None:
        """Close a folder; it is opened again after `retry_s`, or once a folder came or went."""
        self._forget(folder).held.close()
        if retry_s is not None:
            self._closed[folder] = self._clock() + retry_s

    def lose(self, folder: Path) -> None:
        """Close a folder that was deleted."""
        _log.warning("spool folder %s was deleted while it was being read", folder.name)
        self.release(folder)

    def log_once(self, folder: Path, sentence: str) -> None:
        """Log a sentence about a folder, the first of it only."""
        if folder not in self._logged:
            self._logged.add(folder)
            _log.warning("spool folder %s %s", folder.name, sentence)

    def close(self) -> None:
        """Release every folder without saving; the next `rescan` opens them again."""
        for folder in list(self._places):
            self.release(folder)
        self._closed.clear()
        self._mtime_ns = -1

    def _try_open(self, folder: Path) -> None:
        if not self._is_mine(folder, read_meta(folder)):
            return
        held = self.hold(folder)
        if not self._is_mine(folder, held.meta):  # its route was changed meanwhile
            self.release(folder, retry_s=SKIPPED_RETRY_S)

    def _due(self, now_s: float) -> list[Path]:
        fresh: list[Path] = []
        try:
            mtime_ns = spool_dir(self._root).stat().st_mtime_ns
        except FileNotFoundError:
            return []
        if mtime_ns != self._mtime_ns:  # an entry came or went
            self._mtime_ns = mtime_ns
            self._lose_replaced()
            present = set(list_folders(self._root))
            for gone in self._closed.keys() - present:
                del self._closed[gone]
            self.kept &= present
            self.busy &= present
            self._logged &= present
            fresh = sorted(present - self._places.keys() - self._closed.keys() - self.kept)
        return [folder for folder, at_s in self._closed.items() if at_s <= now_s] + fresh

    def _lose_replaced(self) -> None:
        """Let go of folders that were deleted; a live writer makes a new one of the same name."""
        for folder, place in list(self._places.items()):
            try:
                is_same = folder.stat().st_ino == place.inode
            except FileNotFoundError:
                is_same = False
            if not is_same:
                self.lose(folder)

    def _is_settled(self, folder: Path, place: _Place[H]) -> bool:
        """Whether nobody needs a drained folder any more.

        The agent learns from it that a trainer died, and records that; without an agent nobody
        does, so the wait is bounded.
        """
        meta = place.held.meta
        if meta.role != "trainer" or (folder / ENDED_FILE).exists():
            return True
        now_s = self._clock()
        if place.drained_s is None:
            place.drained_s = now_s
            return meta.worker_of is None and lifecycle_end(folder)[0]
        return now_s - place.drained_s >= AGENT_GRACE_S

    def _retire(self, folder: Path, place: _Place[H]) -> None:
        """Delete a drained folder, or keep it unread."""
        try:
            if self._stays(place.held):
                place.held.save()
                self.kept.add(folder)
                self.release(folder)
            else:
                place.held.remove()
                self._forget(folder)
        except OSError as error:
            self.log_once(folder, f"is delivered and cannot be deleted for now: {error}")
            self.release(folder, retry_s=SKIPPED_RETRY_S)

    def _forget(self, folder: Path) -> _Place[H]:
        self._hot.pop(folder, None)
        self._idle.pop(folder, None)
        return self._places.pop(folder)
