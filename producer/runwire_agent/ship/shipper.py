"""Shipper of the spool folders of one destination: paces looks, detects outages, saves cursors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from runwire_agent.ship.broker import (
    AWAY_AFTER_S,
    DENIED,
    SILENT,
    SILENT_AFTER_S,
    UNUSABLE,
    Broker,
    Failure,
    ValueOf,
    keep_bundled_id,
)
from runwire_agent.ship.cut_journal import CutJournal
from runwire_agent.ship.in_flight import InFlight, Reported
from runwire_agent.ship.shipped_folder import ShippedFolder
from runwire_disk.spool.folder_set import SKIPPED_RETRY_S, Accepts, FolderSet
from runwire_disk.spool.format import Meta, SpoolError, destination_of
from runwire_disk.spool.group_sync import sync_files
from runwire_disk.spool.look_pace import LookPace
from runwire_disk.spool.reader import writer_alive

__all__ = ["Shipper"]

_log = logging.getLogger("runwire.agent")

SHIP_GATHER_S = 0.2  # with linger.ms below the promised 0.5 s
SHIP_REST_S_MAX = 0.3
SERVE_S = 0.1  # in one call of the broker
LOOK_S_MAX = 0.3  # after this much reading what was read is sent
SAVE_LOOK_S = 0.5  # between two looks for cursors to save
STUCK_REST_S = 5.0  # a writer over its quota asks about once a second
IN_FLIGHT_BYTES_MAX = 8 * 1024 * 1024  # of values; the producer's copy doubles it
# Between two questions whether brokers are reachable; one takes 1 s at most.
REACHABLE_ASK_S, REACHABLE_ASK_S_MAX = 1.0, 10.0


class Shipper:
    """Reads the folders that `accepts` selects and writes them to `broker`.

    While brokers are unreachable no folder is held, so that a writer over its quota can make room.
    Threads: one.
    """

    def __init__(
        self,
        root: Path,
        destination: str,
        broker: Broker,
        *,
        accepts: Accepts = lambda _folder, _meta: True,
        value_of: ValueOf = keep_bundled_id,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.in_flight = InFlight(broker, value_of)
        self._destination, self._accepts = destination, accepts
        self.journal = CutJournal(root, destination)
        self.folders = FolderSet(
            root,
            lambda folder: ShippedFolder(folder, self.in_flight, self.journal),
            is_mine=self._is_mine,
            stays=lambda shipped: shipped.has_oversized,
            monotonic_s=monotonic_s,
        )
        self.is_away = False
        self._clock = monotonic_s
        # Time of the last acknowledgement; for progress, also of a moment with nothing in flight.
        self.progress_s = self.delivered_s = monotonic_s()
        self._delivered = 0
        self._pace = LookPace(SHIP_GATHER_S, SHIP_REST_S_MAX)
        self._saved_s = float("-inf")
        self._fresh: list[ShippedFolder] = []  # whose cuts were read, and not sent yet
        self._fresh_bytes = 0
        self._ask_s, self._ask_at_s, self._left_at = REACHABLE_ASK_S, 0.0, -1

    @property
    def trouble(self) -> Failure | None:
        """Return the failure that keeps it from delivering now."""
        refused = next(iter(self.in_flight.refused.values()), None)
        trouble = self.in_flight.broker.trouble if self.is_away or self.in_flight.bytes else None
        if trouble is not None:
            return refused or trouble if trouble.kind == DENIED else trouble
        if self.is_away:
            quiet = f"no broker has acknowledged anything for {SILENT_AFTER_S:g} s"
            return Failure(SILENT, f"{quiet}; check that the topics have enough replicas in sync")
        return refused

    @property
    def is_idle(self) -> bool:
        """Tell whether every record read is delivered; folders of live writers stay open."""
        is_refused = bool(self.in_flight.refused)
        is_unseen = any(shipped.is_unseen for shipped in self.folders.readers())
        is_whole = not (is_unseen or self.is_away or self._is_behind or is_refused)
        return is_whole and not self.folders.waiting and self.folders.is_tidy

    def step(self, timeout_s: float) -> None:
        """Look at folders if a look is due, then serve reports.

        Blocks: about `timeout_s`, a second in an outage.
        """
        now_s = self._clock()
        if self.is_away:
            self._ask(now_s)
        if not self.is_away and now_s >= self._pace.next_s and self._has_room():
            self.folders.rescan()
            self._look(now_s)
        is_waiting = self.is_away or not self._has_room()
        self._serve(timeout_s if is_waiting else min(timeout_s, self._pace.next_s - self._clock()))

    def flush(self, deadline_s: float) -> bool:
        """Deliver everything written before this call; false at the deadline or in an outage.

        Blocks: until `deadline_s` at most.
        """
        self.folders.rescan(at_once=True)
        self._aim()
        unreached = set(self.folders.waiting)
        self._pace.hurry()
        while unreached or not self._has_reached:
            if self.is_away or self._clock() >= deadline_s:
                return False
            self.step(SERVE_S)
            unreached -= {s.folder for s in self.folders.readers() if s.has_reached}
            unreached = {folder for folder in unreached if folder.exists()}
        while self._is_undelivered:
            if self.is_away or self._clock() >= deadline_s:
                return False
            self._serve(SERVE_S)
        self._save()
        for shipped in self.folders.readers():
            if not writer_alive(shipped.folder):  # once more, so that delivered ones are deleted
                self.folders.visit_one(shipped.folder, self._read)
        self._hand_on()
        while not self.folders.is_tidy and self._clock() < deadline_s:
            self.folders.tidy()
        return self.folders.is_tidy

    def close(self) -> None:
        """Save, release the folders and give up the cuts in flight: they are sent again later."""
        self._settle(self._clock())
        self._save()
        self.folders.close()
        self.in_flight.broker.close()
        self.journal.close()

    @property
    def _is_behind(self) -> bool:
        is_unsaved = any(shipped.is_unsaved for shipped in self.folders.readers())
        return is_unsaved or self._is_undelivered

    @property
    def _is_undelivered(self) -> bool:
        is_behind = any(shipped.is_behind for shipped in self.folders.readers())
        return is_behind or self.in_flight.bytes > 0

    def _serve(self, timeout_s: float) -> None:
        self.in_flight.broker.poll(max(0.0, min(timeout_s, SERVE_S)))
        self._settle(self._clock())

    def _has_room(self) -> bool:
        return self.in_flight.bytes + self._fresh_bytes < IN_FLIGHT_BYTES_MAX

    def _look(self, begin_s: float) -> None:
        """Read all folders, then sync their files together, then send: synced before delivered."""
        end_s = begin_s + LOOK_S_MAX
        news = self.folders.visit(
            self._read, has_room=lambda: self._has_room() and self._clock() < end_s
        )
        is_cut_short = self._clock() >= end_s
        self._hand_on()
        self._pace.note(begin_s=begin_s, end_s=self._clock(), has_news=news > 0, news_bytes=news)
        if is_cut_short:
            self._pace.hurry()  # the folders that it did not reach wait
        self.folders.tidy(has_news=news > 0)

    def _is_mine(self, folder: Path, meta: Meta) -> bool:
        return destination_of(meta) == self._destination and self._accepts(folder, meta)

    def _read(self, shipped: ShippedFolder) -> int:
        try:
            news = shipped.read()
        except FileNotFoundError:
            raise
        except (OSError, SpoolError) as error:
            self._give_up(shipped, error)
            return 0
        if shipped.has_fresh:
            self._fresh.append(shipped)
            self._fresh_bytes += shipped.fresh_bytes
        return news

    def _hand_on(self) -> None:
        """Sync what was read, write its cuts down, and send it. Blocks: one more fdatasync."""
        ready, self._fresh, self._fresh_bytes = self._fresh, [], 0
        files = {fd: shipped for shipped in ready for fd in shipped.reader.unsynced()}
        failed = {files[fd]: error for fd, error in sync_files(files).items()}
        for shipped, error in failed.items():
            self._give_up(shipped, error)
        ready = [shipped for shipped in ready if shipped not in failed]
        try:
            self.journal.add((s.cuts, cut) for s in ready for cut in s.fresh_ranges)
        except OSError as error:
            for shipped in ready:
                self._give_up(shipped, error)
            return
        for shipped in ready:
            shipped.send()

    def _give_up(self, shipped: Reported, error: Exception) -> None:
        """Release a folder that cannot be read now; it is read again from its saved position."""
        self.folders.log_once(shipped.folder, f"cannot be shipped for now: {error}")
        self.folders.release(shipped.folder, retry_s=SKIPPED_RETRY_S)

    def _aim(self) -> None:
        """Remember every writer's present position, for `_has_reached`."""
        for shipped in self.folders.readers():
            try:
                shipped.aim()
            except FileNotFoundError:
                self.folders.lose(shipped.folder)

    @property
    def _has_reached(self) -> bool:
        """Whether everything written before `_aim` was read."""
        return all(s.has_reached for s in self.folders.readers() if s.is_unseen)

    def _save(self, *, is_due: Callable[[ShippedFolder], bool] = lambda _: True) -> None:
        """Write the cursors that moved and are due."""
        now_s = self._clock()
        for shipped in self.folders.readers():
            if not is_due(shipped):
                continue
            try:
                shipped.save(now_s)
            except FileNotFoundError:
                self.folders.lose(shipped.folder)
            except OSError as error:
                self.folders.log_once(shipped.folder, f"cannot keep its position: {error}")

    def _release_stuck(self) -> None:
        """Release folders whose metrics a topic refuses, so that the writer can make room."""
        for shipped in self.folders.readers():
            if shipped.is_stuck and not shipped.is_unsaved:
                self.folders.release(shipped.folder, retry_s=STUCK_REST_S)

    def _settle(self, now_s: float) -> None:
        for shipped in list(self.in_flight.reported):
            try:
                shipped.settle(now_s)
            except OSError as error:  # it has to keep what a topic refuses, and cannot
                self._give_up(shipped, error)
        if self.in_flight.delivered != self._delivered:
            self._delivered, self.delivered_s = self.in_flight.delivered, now_s
            self.progress_s = now_s
        elif not self.in_flight.bytes:
            self.progress_s = now_s
        if now_s - self._saved_s >= SAVE_LOOK_S:
            self._saved_s = now_s
            self._save(is_due=lambda shipped: shipped.is_save_due(now_s))
            self._release_stuck()
        wanted, self.in_flight.batch_bytes_wanted = self.in_flight.batch_bytes_wanted, None
        if wanted is not None:
            self.in_flight.broker.limit_batches(wanted)
            self.in_flight.broker.reset()
        trouble = self.in_flight.broker.trouble
        limit_s = AWAY_AFTER_S if trouble is not None else SILENT_AFTER_S
        is_hopeless = trouble is not None and trouble.kind in (DENIED, UNUSABLE)
        if not self.is_away and (is_hopeless or now_s - self.progress_s >= limit_s):
            self._leave()

    def _leave(self) -> None:
        """Release folders and messages until brokers answer again."""
        self.is_away = True
        self.in_flight.broker.reset()
        self._save()
        self.folders.close()
        if self.in_flight.delivered > self._left_at:
            self._left_at, self._ask_s = self.in_flight.delivered, REACHABLE_ASK_S
        self._ask_at_s = self._clock() + self._ask_s
        self._ask_s = min(REACHABLE_ASK_S_MAX, 2 * self._ask_s)

    def _ask(self, now_s: float) -> None:
        if now_s < self._ask_at_s:
            return
        if self.in_flight.broker.is_reachable(1.0):
            _log.info("brokers answer again")
            self.is_away = False
            self._pace.hurry()
            self.progress_s = self._clock()
            return
        self._ask_s = min(REACHABLE_ASK_S_MAX, 2 * self._ask_s)
        self._ask_at_s = self._clock() + self._ask_s
