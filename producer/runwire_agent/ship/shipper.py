"""Ships the spool folders of one destination: paces the looks, notices outages, saves."""

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
    as_bundled,
)
from runwire_agent.ship.folders import Accepts, ShippedFolders
from runwire_agent.ship.in_flight import Outbox

__all__ = ["Shipper"]

_log = logging.getLogger("runwire.agent")

LOOK_S = 0.1  # how often an idle spool is looked at
GATHER_S = 0.2  # after little news, wait for more; with linger.ms below the promised 0.5 s
MUCH_BYTES = 128 * 1024  # after a look at this much the next one is worth while at once
IDLE_SHARE = 3  # rest so many times as long as a look took ...
REST_S_MAX = 0.3  # ... but not longer than this
SAVE_S = 0.5
IN_FLIGHT_BYTES_MAX = 8 * 1024 * 1024  # of values; the producer's copy doubles it
ASK_S, ASK_S_MAX = 1.0, 10.0  # between questions whether brokers are back; one takes 1 s at most


class Shipper:
    """Reads the folders that `accepts` names and writes them to `broker`.

    While brokers are away no folder is held, so that a writer over its quota can make room.
    Threads: one.
    """

    def __init__(
        self,
        root: Path,
        destination: str,
        broker: Broker,
        *,
        accepts: Accepts | None = None,
        value_of: ValueOf = as_bundled,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.outbox = Outbox(broker, value_of)
        self.folders = ShippedFolders(
            root,
            destination,
            self.outbox,
            accepts=accepts or (lambda _folder, _meta: True),
            monotonic_s=monotonic_s,
        )
        self.is_away = False
        self._clock = monotonic_s
        # When something was acknowledged last; for progress, or nothing was under way.
        self.progress_s = self.delivered_s = monotonic_s()
        self._delivered = 0
        self._look_s = self._saved_s = float("-inf")
        self._ask_s, self._ask_at_s, self._left_at = ASK_S, 0.0, -1

    @property
    def trouble(self) -> Failure | None:
        """Return what keeps it from delivering now."""
        refused = next(iter(self.outbox.refused.values()), None)
        found = self.outbox.broker.trouble if self.is_away or self.outbox.bytes else None
        if found is not None:
            return refused or found if found.kind == DENIED else found
        if self.is_away:
            quiet = f"no broker has acknowledged anything for {SILENT_AFTER_S:g} s"
            return Failure(SILENT, f"{quiet}; check that the topics have enough replicas in sync")
        return refused

    @property
    def is_idle(self) -> bool:
        """Tell whether everything found is delivered; folders of live writers stay open."""
        is_refused = bool(self.outbox.refused)
        return not (self.folders.unseen or self.is_away or self._is_behind or is_refused)

    def step(self, timeout_s: float) -> None:
        """Do what is due, then serve reports. Blocks: about `timeout_s`, a second in an outage."""
        now_s = self._clock()
        if self.is_away:
            self._ask(now_s)
        if not self.is_away and now_s >= self._look_s and self._has_room():
            self.folders.rescan()
            self._look(now_s)
        is_waiting = self.is_away or not self._has_room()
        self._serve(timeout_s if is_waiting else min(timeout_s, self._look_s - self._clock()))

    def flush(self, deadline_s: float) -> bool:
        """Deliver what is written now, whatever follows. Blocks: until done, away or then."""
        self.folders.rescan(at_once=True)
        self.folders.aim()
        self._look_s = 0.0
        while not self.folders.has_reached:
            if self.is_away or self._clock() >= deadline_s:
                return False
            self.step(LOOK_S)
        while self._is_behind:
            if self.is_away or self._clock() >= deadline_s:
                return False
            self._serve(LOOK_S)
        self.folders.sweep()
        return True

    def close(self) -> None:
        """Save, release the folders and let go of what is in flight: it is sent again later."""
        self._settle(self._clock())
        self.folders.close()
        self.outbox.broker.close()

    @property
    def _is_behind(self) -> bool:
        return self.outbox.bytes > 0 or any(
            shipment.is_behind or shipment.is_unsaved
            for shipment in self.folders.shipments.values()
        )

    def _serve(self, timeout_s: float) -> None:
        self.outbox.broker.poll(max(0.0, min(timeout_s, LOOK_S)))
        self._settle(self._clock())

    def _has_room(self) -> bool:
        return self.outbox.bytes < IN_FLIGHT_BYTES_MAX

    def _look(self, begin_s: float) -> None:
        news = self.folders.look(self._has_room)
        end_s = self._clock()
        if news >= MUCH_BYTES:
            self._look_s = end_s
        else:
            took_s = min(REST_S_MAX, IDLE_SHARE * (end_s - begin_s))
            self._look_s = end_s + max(GATHER_S if news else LOOK_S, took_s)

    def _settle(self, now_s: float) -> None:
        for shipment in self.folders.shipments.values():
            shipment.settle(now_s)
        if self.outbox.delivered != self._delivered:
            self._delivered, self.delivered_s = self.outbox.delivered, now_s
            self.progress_s = now_s
        elif not self.outbox.bytes:
            self.progress_s = now_s
        if now_s - self._saved_s >= SAVE_S:
            self._saved_s = now_s
            self.folders.save()
            self.folders.let_stuck_go()
        wanted, self.outbox.batch_bytes_wanted = self.outbox.batch_bytes_wanted, None
        if wanted is not None:
            self.outbox.broker.limit_batches(wanted)
            self.outbox.broker.reset()
        trouble = self.outbox.broker.trouble
        limit_s = AWAY_AFTER_S if trouble is not None else SILENT_AFTER_S
        is_hopeless = trouble is not None and trouble.kind in (DENIED, UNUSABLE)
        if not self.is_away and (is_hopeless or now_s - self.progress_s >= limit_s):
            self._leave()

    def _leave(self) -> None:
        """Let go of folders and messages until brokers answer again."""
        self.is_away = True
        self.outbox.broker.reset()
        self.folders.close()
        if self.outbox.delivered > self._left_at:
            self._left_at, self._ask_s = self.outbox.delivered, ASK_S
        self._ask_at_s = self._clock() + self._ask_s
        self._ask_s = min(ASK_S_MAX, 2 * self._ask_s)

    def _ask(self, now_s: float) -> None:
        if now_s < self._ask_at_s:
            return
        if self.outbox.broker.is_reachable(1.0):
            _log.info("brokers answer again")
            self.is_away, self._look_s = False, 0.0
            self.progress_s = self._clock()
            return
        self._ask_s = min(ASK_S_MAX, 2 * self._ask_s)
        self._ask_at_s = self._clock() + self._ask_s
