"""Which spool folders a shipper holds: finds them, asks them for news, lets go of them.

Thousands of writers may sit idle, so a look never visits all of them: folders that had news the
last time are asked each time, the others in turn for as long as a small time budget lasts.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

from runwire_agent.ship.in_flight import Outbox
from runwire_agent.ship.shipment import Shipment
from runwire_disk.paths import spool_dir
from runwire_disk.spool.destination import destination_of
from runwire_disk.spool.format import ENDED_FILE, Meta, SpoolBusy, SpoolError
from runwire_disk.spool.progress import lifecycle_end
from runwire_disk.spool.reader import list_folders, read_meta, writer_alive

__all__ = ["Accepts", "ShippedFolders"]

_log = logging.getLogger("runwire.agent")

RESCAN_S = 0.2
RETRY_S = 2.0  # a folder that is busy, unreadable or of somebody else
STUCK_REST_S = 5.0  # a writer over its quota asks about once a second
IDLE_BUDGET_S = 0.03  # of each look; about 300 idle folders
# The agent looks twice a second and may just be starting; the points are delivered either way.
AGENT_GRACE_S = 10.0
Accepts = Callable[[Path, Meta], bool]


class ShippedFolders:
    """The folders of one destination that `accepts` names, held as their one reader."""

    def __init__(
        self,
        root: Path,
        destination: str,
        outbox: Outbox,
        *,
        accepts: Accepts,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._root, self._destination, self._outbox = root, destination, outbox
        self._accepts, self._clock = accepts, monotonic_s
        self.shipments: dict[Path, Shipment] = {}
        # Folders whose last look found news, or that were not looked at yet.
        self.unseen: set[Path] = set()
        # Delivered but for what no broker takes.
        self.kept: set[Path] = set()
        self.busy: set[Path] = set()  # somebody else reads them
        self._inodes: dict[Path, int] = {}
        self._hot: dict[Path, None] = {}
        self._idle: deque[Path] = deque()
        self._closed: dict[Path, float] = {}  # folder -> when to look at it again
        self._drained_s: dict[Path, float] = {}
        self._told: set[Path] = set()
        self._scanned_s = float("-inf")
        self._mtime_ns = -1

    def rescan(self, *, at_once: bool = False) -> None:
        """Open folders that are new, or whose time to be asked again has come."""
        now_s = self._clock()
        if now_s - self._scanned_s < RESCAN_S and not at_once:
            return
        self._scanned_s = now_s
        for folder in self._candidates(now_s):
            self._closed[folder] = now_s + RETRY_S
            self.busy.discard(folder)
            try:
                self._open(folder)
            except SpoolBusy:
                self.busy.add(folder)
            except (SpoolError, OSError) as error:
                if folder.exists():
                    self._tell_once(folder, f"cannot be shipped for now: {error}")

    def look(self, has_room: Callable[[], bool]) -> int:
        """Send what is new while there is room; return how far spools were read, in bytes."""
        news = 0
        for folder in list(self._hot):
            if not has_room():
                return news
            news += self._visit(folder)
        end_s = self._clock() + IDLE_BUDGET_S
        for _ in range(len(self._idle)):
            if not has_room() or self._clock() >= end_s:
                break
            news += self._visit(self._idle.popleft())
        return news

    def sweep(self) -> None:
        """Ask the folders of ended writers once more, so that delivered ones are deleted."""
        for folder in list(self.shipments):
            if not writer_alive(folder):
                self._take(folder)

    def aim(self) -> None:
        """Remember how far every writer is now, for `has_reached`."""
        for folder, shipment in list(self.shipments.items()):
            self.unseen.add(folder)
            try:
                shipment.aim()
            except FileNotFoundError:
                self._lose(folder)

    @property
    def has_reached(self) -> bool:
        """Tell whether everything written before `aim` was read."""
        return all(self.shipments[folder].has_reached for folder in self.unseen)

    def save(self) -> None:
        """Write the cursors that moved."""
        for folder, shipment in list(self.shipments.items()):
            try:
                shipment.save()
            except FileNotFoundError:
                self._lose(folder)
            except OSError as error:
                self._tell_once(folder, f"cannot keep its position: {error}")

    def let_stuck_go(self) -> None:
        """Release folders whose metrics a topic refuses, so that the writer can make room."""
        for folder, shipment in list(self.shipments.items()):
            if shipment.is_stuck and not shipment.is_unsaved:
                self._close(folder)
                self._closed[folder] = self._clock() + STUCK_REST_S

    def close(self) -> None:
        """Save, and let go of every folder."""
        self.save()
        for folder in list(self.shipments):
            self._close(folder)
        self._closed.clear()
        self._mtime_ns = -1

    def abandon(self) -> None:
        """Close the descriptors that a forked child inherited; the locks stay its parent's."""
        for shipment in self.shipments.values():
            shipment.close()
        self.shipments.clear()

    def _open(self, folder: Path) -> None:
        if not self._is_ours(folder, read_meta(folder)):
            return
        shipment = Shipment(folder, self._outbox)
        if not self._is_ours(folder, shipment.meta):  # its route was changed meanwhile
            shipment.close()
            return
        self.shipments[folder] = shipment
        self._inodes[folder] = folder.stat().st_ino
        self._hot[folder] = None
        self.unseen.add(folder)
        del self._closed[folder]

    def _is_ours(self, folder: Path, meta: Meta) -> bool:
        return destination_of(meta) == self._destination and self._accepts(folder, meta)

    def _candidates(self, now_s: float) -> list[Path]:
        due = [folder for folder, at_s in self._closed.items() if at_s <= now_s]
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
            due += sorted(present - set(self.shipments) - set(self._closed) - self.kept)
        return [folder for folder in due if folder not in self.shipments]

    def _visit(self, folder: Path) -> int:
        """Take news of a folder and queue it again, behind those not reached by this look."""
        self._hot.pop(folder, None)
        taken = self._take(folder)
        if folder in self.shipments and taken:
            self._hot[folder] = None
        elif folder in self.shipments:
            self._idle.append(folder)
        return taken

    def _take(self, folder: Path) -> int:
        shipment = self.shipments[folder]
        try:
            taken = shipment.take()
            if taken or shipment.is_behind:
                self.unseen.add(folder)
                return taken
            self.unseen.discard(folder)
            if shipment.reader.drained and self._is_settled(folder, shipment):
                self._finish(folder, shipment)
        except FileNotFoundError:
            self._lose(folder)
        except (OSError, SpoolError) as error:
            self._tell_once(folder, f"cannot be shipped for now: {error}")
            self._close(folder)
            self._closed[folder] = self._clock() + RETRY_S
        return 0

    def _is_settled(self, folder: Path, shipment: Shipment) -> bool:
        """Whether nobody needs a drained folder: the watcher learns from it that a trainer died."""
        meta = shipment.meta
        if meta.role != "trainer" or (folder / ENDED_FILE).exists():
            return True
        now_s = self._clock()
        since_s = self._drained_s.get(folder)
        if since_s is None:
            self._drained_s[folder] = now_s
            return meta.worker_of is None and lifecycle_end(folder)[0]
        return now_s - since_s >= AGENT_GRACE_S

    def _finish(self, folder: Path, shipment: Shipment) -> None:
        if shipment.has_oversized:
            shipment.save()
            self.kept.add(folder)
            self._close(folder)
            return
        self._forget(folder)
        shipment.remove()

    def _lose_replaced(self) -> None:
        """Let go of folders that were deleted; a live writer makes a new one of the same name."""
        for folder in list(self.shipments):
            try:
                same = folder.stat().st_ino == self._inodes[folder]
            except FileNotFoundError:
                same = False
            if not same:
                self._lose(folder)

    def _lose(self, folder: Path) -> None:
        _log.warning("spool folder %s was deleted while it was being shipped", folder.name)
        self._close(folder)

    def _close(self, folder: Path) -> None:
        self.shipments[folder].close()
        self._forget(folder)

    def _forget(self, folder: Path) -> None:
        del self.shipments[folder]
        del self._inodes[folder]
        self._hot.pop(folder, None)
        with contextlib.suppress(ValueError):
            self._idle.remove(folder)
        self._drained_s.pop(folder, None)
        self.unseen.discard(folder)

    def _tell_once(self, folder: Path, sentence: str) -> None:
        if folder not in self._told:
            self._told.add(folder)
            _log.warning("spool folder %s %s", folder.name, sentence)
