"""One delivery of everything in the spool and the outbox, for a caller who waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runwire_agent.duty import Stay
from runwire_agent.own_spool import OwnSpool
from runwire_agent.ship.broker import Broker
from runwire_agent.ship.duty import make_shipper
from runwire_agent.sync.outbox import OutboxSync
from runwire_agent.watch.duty import WatchDuty
from runwire_agent.watch.trainers import AgentPlace
from runwire_disk.agents.lock import node_lock
from runwire_disk.host import boot_id
from runwire_disk.settings import NodeSettings
from runwire_disk.spool.format import Meta, SpoolError, destination_of, read_cursor
from runwire_disk.spool.progress import progress
from runwire_disk.spool.reader import list_folders, read_meta, writer_alive

__all__ = ["Sync"]

SLICE_S = 1.0


class Sync:
    """Ships every folder of one destination that no agent holds, offline runs too.

    Where no agent watches, it first records the ends of trainers that died.
    """

    def __init__(
        self,
        settings: NodeSettings,
        *,
        new_broker: Callable[[], Broker] | None = None,
    ) -> None:
        kafka = settings.kafka
        assert kafka is not None, "without brokers there is only the outbox to sync"
        self.root, self._kafka = settings.root, kafka
        self._boot = boot_id()
        self.shipper = make_shipper(settings, kafka, self._accepts, new_broker)
        self.outbox = OutboxSync(settings, new_broker=new_broker)

    def deliver(self, timeout_s: float, say: Callable[[str], None]) -> str:
        """Deliver; return "" or the problem. Blocks: until `timeout_s` without progress.

        Calls `say` with its progress about once a second.
        """
        self._record_ends()
        before: tuple[int, tuple[int, ...]] = (-1, ())
        progress_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            self.outbox.tick()
            is_flushed = self.shipper.flush(now_s + SLICE_S)
            if is_flushed and self.outbox.is_idle:
                self.outbox.close()
                # The outcome of the uploads, and the folder that holds it.
                is_flushed = self.shipper.flush(now_s + 2 * SLICE_S)
            if is_flushed and self.outbox.is_idle and not self.pending_points(held_elsewhere=True):
                return self._set_aside() or self.outbox.problem()
            if self.shipper.is_away:
                self.shipper.step(SLICE_S)
            elif is_flushed:
                time.sleep(0.1)
            left = (self.pending_points(), self.outbox.progress)
            if left != before or self.shipper.delivered_s >= now_s:
                progress_s, before = time.monotonic(), left
            trouble = self.shipper.trouble
            words = [f"{left[0]:,} points left", self.outbox.words()]
            say("; ".join(filter(None, [*words, trouble.sentence if trouble else ""])))
            if time.monotonic() - progress_s >= timeout_s:
                return self._stuck(left[0])

    def _stuck(self, points: int) -> str:
        if not points and not self.outbox.is_idle:
            return self.outbox.problem()
        trouble = self.shipper.trouble
        why = trouble.sentence if trouble else "another process holds what is left"
        return (
            f"{points:,} points are not delivered: {why}. They stay in the spool of "
            f"{self.root}; run `runwire sync` again"
        )

    def pending_points(self, *, held_elsewhere: bool = False) -> int:
        """Return the accepted points of this destination that no cursor covers yet."""
        busy = self.shipper.folders.busy
        total = 0
        for folder, _ in self._folders():
            if held_elsewhere and folder not in busy:
                continue
            try:
                cursor = read_cursor(folder)
                done = max(cursor.accepted, cursor.skip_accepted)
                total += max(0, progress(folder).accepted - done)
            except OSError:
                continue  # delivered and removed meanwhile
        return total

    def facts(self) -> dict[str, object]:
        """Return counts of deliveries, for the command to print."""
        in_flight = self.shipper.in_flight
        return {
            "records": in_flight.delivered,
            "points": in_flight.points,
            "set_aside": in_flight.set_aside,
            "pending_points": self.pending_points(),
            "folders_elsewhere": self._elsewhere(),
            **self.outbox.facts(),
        }

    def report(self) -> dict[str, Any]:
        """Return counts of uploads, as `AgentState.uploads`."""
        return self.outbox.report()

    def close(self) -> None:
        """Release folders and connections."""
        self.outbox.close()
        self.shipper.close()

    def _accepts(self, folder: Path, meta: Meta) -> bool:
        return meta.boot_id == self._boot or not writer_alive(folder)

    def _folders(self) -> list[tuple[Path, Meta]]:
        folders = []
        for folder in list_folders(self.root):
            try:
                meta = read_meta(folder)
            except SpoolError:
                continue
            if destination_of(meta) == self._kafka.destination:
                folders.append((folder, meta))
        return folders

    def _record_ends(self) -> None:
        lock = node_lock(self.root, self._kafka.destination)
        if not lock.acquire(timeout_s=0.0):
            return  # an agent is watching
        own = OwnSpool(self.root, self._kafka)
        try:
            watch = WatchDuty(AgentPlace(self.root, self._kafka.destination), own, Stay())
            watch.tick(time.monotonic())
        finally:
            own.close()
            lock.release()

    def _set_aside(self) -> str:
        number = self.shipper.in_flight.set_aside
        if not number:
            return ""
        return (
            f"{number} records are larger than their topics accept; they are kept as "
            "oversized-*.bin in their spool folders, and the dead letters name them"
        )

    def _elsewhere(self) -> int:
        """Return how many folders go to other brokers, other identities, or stay local."""
        count = 0
        for folder in list_folders(self.root):
            try:
                count += destination_of(read_meta(folder)) != self._kafka.destination
            except SpoolError:
                continue
        return count
