"""Set of the spool folders that one reader holds: finds them, visits them, lets go of them.

Thousands of writers may sit idle. Every round asks each folder whether it has news, which costs a
few microseconds; those that have are visited. The others are visited in turn, about once a second
and for as long as a small time budget lasts: only a visit sees that a writer died.

A folder takes several file descriptors. When they run short, folders wait for those that others
give back: every folder has its turn, and nobody is left without descriptors.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from runwire_disk.descriptors import descriptors_left
from runwire_disk.files import NO_DESCRIPTORS
from runwire_disk.paths import spool_dir
from runwire_disk.spool.format import ENDED_FILE, Meta, SpoolBusy, SpoolError
from runwire_disk.spool.held_folder import HeldFolder
from runwire_disk.spool.progress import lifecycle_end
from runwire_disk.spool.reader import list_folders, read_meta

__all__ = ["Accepts", "FolderSet"]

_log = logging.getLogger("runwire.spool")

RESCAN_S = 0.2
BUSY_RETRY_S = 0.5  # another process reads the folder
SKIPPED_RETRY_S = 2.0  # the folder has another destination, or cannot be read for now
IDLE_BUDGET_S = 0.03  # of each round; about 500 idle folders
TIDY_BUDGET_S = 0.2  # to delete folders after a round without news
FULL_LOOK_S = 1.0  # between two visits of a folder without news
DESCRIPTORS_EACH = 5  # of a folder at most: its lock, and a segment of each series
TURN_S = 0.5  # that a folder is held at least, while others wait for descriptors
# The agent looks twice a second and may just be starting; the points are delivered either way.
AGENT_GRACE_S = 10.0

Accepts = Callable[[Path, Meta], bool]


H = TypeVar("H", bound=HeldFolder)


@dataclass(slots=True)
class _Place(Generic[H]):
    """One held folder, and what must be forgotten with it."""

    held: H
    inode: int
    opened_s: float
    visited_s: float = float("-inf")
    was_visited: bool = False
    drained_s: float | None = None


class FolderSet(Generic[H]):
    """The folders under `<root>/spool` that `is_mine` accepts, each opened by `open_folder`.

    A drained folder is deleted, unless `stays` says that a person must look at it. `busy` holds
    the folders that another process reads, `kept` those that stay, `waiting` those that wait for
    the file descriptors of others. Threads: one.
    """

    def __init__(
        self,
        root: Path,
        open_folder: Callable[[Path], H],
        *,
        is_mine: Accepts,
        stays: Callable[[H], bool] = lambda _: False,
        monotonic_s: Callable[[], float] = time.monotonic,
        descriptors: Callable[[], int] = descriptors_left,
    ) -> None:
        self._root, self._open_folder, self._is_mine = root, open_folder, is_mine
        self._stays, self._clock, self._descriptors = stays, monotonic_s, descriptors
        self.busy: set[Path] = set()
        self.kept: set[Path] = set()
        self.waiting: OrderedDict[Path, None] = OrderedDict()
        # In the order of visits: the one that was not visited for the longest time comes first.
        self._places: OrderedDict[Path, _Place[H]] = OrderedDict()
        self._drained: dict[Path, None] = {}
        self._is_short = False
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
            self.busy, self.kept, self.waiting, self._closed, self._logged
        )

    def hold(self, folder: Path) -> H:
        """Return the reader of a folder, opened if need be, also where `is_mine` refuses it.

        Raises: SpoolBusy, SpoolError, OSError.
        """
        place = self._places.get(folder)
        if place is None:
            held = self._open_folder(folder)
            try:
                place = _Place(held, folder.stat().st_ino, self._clock())
            except OSError:
                held.close()
                raise
            self._places[folder] = place
            self._places.move_to_end(folder, last=False)
            self.waiting.pop(folder, None)
            self._closed.pop(folder, None)
            self.busy.discard(folder)
        return place.held

    def rescan(self, *, at_once: bool = False) -> None:
        """Open folders that are new, that are due for another try, or whose turn it is."""
        now_s = self._clock()
        if now_s - self._scanned_s < RESCAN_S and not at_once:
            return
        self._scanned_s = now_s
        try:
            due = self._due(now_s)
        except OSError as error:
            if error.errno not in NO_DESCRIPTORS:
                raise
            self._mtime_ns = -1
            self._give_back(now_s, len(self._places))
            return
        self.waiting.update(dict.fromkeys(due))
        room = self._descriptors() // DESCRIPTORS_EACH if self.waiting else 0
        if not self._places:
            room = max(1, room)  # beside a trainer that uses the reserve they are read one by one
        for folder in list(self.waiting)[:room]:
            self._open_or_skip(folder, now_s)
        self._note_shortage()
        if self.waiting:
            self._give_back(now_s, len(self.waiting))

    def visit(
        self, take: Callable[[H], int], *, has_room: Callable[[], bool] = lambda: True
    ) -> int:
        """Call `take` for readers in turn while there is room; return the sum of its results.

        Its result is 0 when the folder had no news. Raises: any error of `take`, but
        FileNotFoundError: that folder was deleted, and is let go.
        """
        news = 0
        idle: list[Path] = []
        for folder, place in list(self._places.items()):
            if self._places.get(folder) is not place:  # given back meanwhile
                continue
            if place.was_visited and not self._has_news(folder, place):
                idle.append(folder)
            else:
                if not has_room():
                    return news
                news += self.visit_one(folder, take)
        now_s = self._clock()
        end_s = now_s + IDLE_BUDGET_S
        for folder in idle:
            # In the order of visits, so the first that is not due ends the turn.
            held = self._places.get(folder)
            if held is None:
                continue
            is_due = now_s - held.visited_s >= FULL_LOOK_S
            if not is_due or not has_room() or self._clock() >= end_s:
                break
            news += self.visit_one(folder, take)
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
        self._places.move_to_end(folder)
        place.visited_s, place.was_visited = self._clock(), True
        if place.held.is_short:
            self.waiting[folder] = None  # one more that needs what the others give back
            self._note_shortage()
            self._give_back(place.visited_s, 1)
            if self._places.get(folder) is place:  # else it waits for its own descriptors
                self.waiting.pop(folder, None)
        elif not news and place.held.drained:
            self._drained[folder] = None
        return news

    @property
    def is_tidy(self) -> bool:
        """Tell whether no folder is known that `tidy` would delete."""
        return not self._drained

    def tidy(self, *, has_news: bool = False) -> None:
        """Delete drained folders, for a moment: call it when the news of a round is handed on.

        Deleting hundreds of folders takes seconds, and no living writer waits for that.
        """
        end_s = self._clock() + (IDLE_BUDGET_S if has_news else TIDY_BUDGET_S)
        while self._drained:
            folder = next(iter(self._drained))
            del self._drained[folder]
            place = self._places.get(folder)
            if place is not None and place.held.drained:
                self._retire(folder, place)
            if self._clock() >= end_s:
                return

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
        self.waiting.clear()
        self._mtime_ns = -1

    def _has_news(self, folder: Path, place: _Place[H]) -> bool:
        try:
            return place.held.has_news()
        except FileNotFoundError:
            self.lose(folder)
            return False

    def _open_or_skip(self, folder: Path, now_s: float) -> None:
        self.waiting.pop(folder, None)
        self._closed[folder] = now_s + SKIPPED_RETRY_S
        self.busy.discard(folder)
        try:
            self._try_open(folder)
        except SpoolBusy:
            self.busy.add(folder)
            self._closed[folder] = now_s + BUSY_RETRY_S
        except (SpoolError, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, OSError) and cause.errno in NO_DESCRIPTORS:
                del self._closed[folder]
                self.waiting[folder] = None
            elif folder.exists():
                self.log_once(folder, f"cannot be read for now: {error}")

    def _note_shortage(self) -> None:
        is_short = bool(self.waiting)
        if is_short and not self._is_short:
            _log.warning(
                "no file descriptor is left for %d spool folders, so folders take turns and are "
                "read later: raise `ulimit -n`",
                len(self.waiting),
            )
        self._is_short = is_short

    def _give_back(self, now_s: float, count: int) -> None:
        """Close up to `count` folders whose readers are at rest; they wait for their next turn."""
        for folder, place in list(self._places.items()):
            if count <= 0:
                return
            is_over = place.was_visited and now_s - place.opened_s >= TURN_S
            if is_over and place.held.at_rest:
                with contextlib.suppress(OSError):  # else it is read again from where it was saved
                    place.held.save()
                    self.release(folder)
                    self.waiting[folder] = None
                    count -= 1

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
            for gone in self.waiting.keys() - present:
                del self.waiting[gone]
            self.kept &= present
            self.busy &= present
            self._logged &= present
            known = self._places.keys() | self._closed.keys() | self.waiting.keys() | self.kept
            fresh = sorted(present - known)
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
        """Delete a drained folder once nobody needs it, or keep it unread."""
        try:
            if not self._is_settled(folder, place):
                return
            if self._stays(place.held):
                place.held.save()
                self.kept.add(folder)
                self.release(folder)
            else:
                place.held.remove()
                self._forget(folder)
        except FileNotFoundError:
            self.lose(folder)
        except OSError as error:
            self.log_once(folder, f"is delivered and cannot be deleted for now: {error}")
            with contextlib.suppress(OSError):  # or each try reads its last records again
                place.held.save()
            self.release(folder, retry_s=SKIPPED_RETRY_S)

    def _forget(self, folder: Path) -> _Place[H]:
        self._drained.pop(folder, None)
        return self._places.pop(folder)
