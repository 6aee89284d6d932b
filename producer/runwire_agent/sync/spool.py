"""One delivery of everything in the spool and the outbox: an agent that ends when all is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runwire_agent.agent import Agent
from runwire_agent.ship.broker import Broker
from runwire_agent.ship.messages import schema_ids
from runwire_agent.ship.shipper import Shipper
from runwire_agent.sync.outbox import OutboxSync
from runwire_disk.host import boot_id, hostname
from runwire_disk.settings import NodeSettings
from runwire_disk.spool.format import Meta, SpoolError, destination_of, read_cursor
from runwire_disk.spool.progress import progress
from runwire_disk.spool.reader import list_folders, read_meta, writer_alive
from runwire_schemas.connections.kafka import KafkaSettings

__all__ = ["Sync"]

SLICE_S = 1.0


class Sync:
    """Ships every folder of one destination that no agent holds, offline runs too.

    Where no agent watches, it first records the ends of trainers that died.
    """

    def __init__(
        self,
        settings: NodeSettings,
        kafka: KafkaSettings,
        *,
        broker: Broker | None = None,
        new_broker: Callable[[], Broker] | None = None,
    ) -> None:
        if broker is None:
            from runwire_agent.ship.kafka import KafkaBroker

            broker = KafkaBroker(kafka)
        self.root, self._kafka = settings.root, kafka
        self._boot, self._host = boot_id(), hostname()
        self.shipper = Shipper(
            self.root,
            kafka.destination,
            broker,
            accepts=self._accepts,
            value_of=schema_ids(settings.schema_registry_url, kafka.topic_prefix),
        )
        self.outbox = OutboxSync(settings, kafka, new_broker=new_broker)

    def deliver(self, timeout_s: float, say: Callable[[str], None]) -> str:
        """Deliver; return "" or the sentence why not. Blocks: until `timeout_s` without progress.

        `say` is told about once a second how far it is.
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
                # The last word on artifacts, and the folder that it stood in.
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
        """Return what was delivered, for the command to print."""
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
        """Return how artifacts fare, as `AgentState.uploads`."""
        return self.outbox.report()

    def close(self) -> None:
        """Release folders and connections."""
        self.outbox.close()
        self.shipper.close()

    def _accepts(self, folder: Path, meta: Meta) -> bool:
        return meta.boot_id == self._boot or not writer_alive(folder)

    def _folders(self) -> list[tuple[Path, Meta]]:
        found = []
        for folder in list_folders(self.root):
            try:
                meta = read_meta(folder)
            except SpoolError:
                continue
            if destination_of(meta) == self._kafka.destination:
                found.append((folder, meta))
        return found

    def _record_ends(self) -> None:
        agent = Agent(self.root, kafka=self._kafka)
        if agent.lock.acquire(timeout_s=0.0):
            agent.tick(time.monotonic())
        agent.close()

    def _set_aside(self) -> str:
        number = self.shipper.in_flight.set_aside
        if not number:
            return ""
        return (
            f"{number} records are larger than their topics take; they lie as oversized-*.bin in "
            "their spool folders, and the dead letters name them"
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
