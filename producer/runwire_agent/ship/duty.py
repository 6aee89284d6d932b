"""The shipping half inside an agent: runs the shipper, tells causes, decides when to give up."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from runwire_agent.ship.broker import Broker, Failure
from runwire_agent.ship.messages import schema_ids
from runwire_agent.ship.shipper import IN_FLIGHT_BYTES_MAX, Shipper
from runwire_agent.state import StateFile
from runwire_disk.spool.folder_set import Accepts
from runwire_schemas.connections.kafka import KafkaSettings

__all__ = ["Delivery"]

_log = logging.getLogger("runwire.agent")
STAY_S = 600.0
# A quarter of what the shipper has under way at most; 100,000 points/s keep a tenth of it there.
BEHIND_BYTES = IN_FLIGHT_BYTES_MAX // 4
LAST_LOOK_S = 1.0  # for a trainer's folder that came since the last look


class Delivery:
    """Ships the folders that `accepts` names; tells `state` how it fares."""

    def __init__(
        self,
        root: Path,
        kafka: KafkaSettings,
        *,
        state: StateFile,
        accepts: Accepts,
        stay_s: float = STAY_S,
        registry_url: str | None = None,
        broker: Broker | None = None,
    ) -> None:
        if broker is None:
            from runwire_agent.ship.kafka import KafkaBroker

            broker = KafkaBroker(kafka)
        self.broker = broker
        self.shipper = Shipper(
            root,
            kafka.destination,
            broker,
            accepts=accepts,
            value_of=schema_ids(registry_url, kafka.topic_prefix),
        )
        self._state, self._stay_s = state, stay_s
        self._trouble: Failure | None = None
        self._since_ns = 0

    def rest(self, until_s: float, stop: threading.Event) -> None:
        """Ship until then. Blocks: that long."""
        while not stop.is_set():
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            self.shipper.step(left_s)
        self.tell()

    def may_end(self, busy_at_s: float, now_s: float) -> bool:
        """Whether an agent without trainers has nothing left to do, or no hope to do it."""
        if self.shipper.is_idle and self.shipper.flush(time.monotonic() + LAST_LOOK_S):
            return True
        if now_s - max(busy_at_s, self.shipper.delivered_s) < self._stay_s:
            return False
        _log.warning(
            "leaving without having delivered everything: nothing was taken for %g s. The next "
            "agent or `runwire sync` sends the rest of the spool",
            self._stay_s,
        )
        return True

    def flush(self, deadline_s: float) -> bool:
        """Deliver what is there; at once false while brokers are in trouble. Blocks: until then."""
        return self.shipper.trouble is None and self.shipper.flush(deadline_s)

    def end(self, deadline_s: float) -> None:
        """Deliver what is there until the deadline, keep the rest. Blocks: until then."""
        if not self.flush(deadline_s):
            _log.warning("ending before everything is delivered; the spool keeps the rest")
        self.shipper.close()
        self.tell(at_once=True)

    @property
    def is_behind(self) -> bool:
        """Whether more is under way than a live trainer makes: uploads make way."""
        return self.shipper.in_flight.bytes >= BEHIND_BYTES

    def abandon(self) -> None:
        """Leave everything to the parent process, in a forked child of it."""
        self.broker.abandon()
        self.shipper.folders.close()

    def tell(self, *, at_once: bool = False) -> None:
        """Log a cause once, and its end; write the state file when it changed or is old."""
        trouble = self.shipper.trouble
        is_changed = trouble != self._trouble
        if is_changed:
            # librdkafka varies its words; the same cause is logged once.
            if trouble is not None and (
                self._trouble is None or trouble.kind != self._trouble.kind
            ):
                _log.warning("%s. The spool keeps everything", trouble.sentence)
                self._since_ns = time.time_ns()
            elif trouble is None:
                _log.info("delivering again")
                self._since_ns = 0
            self._trouble = trouble
        self._state.update(
            at_once=is_changed or at_once,
            cause=trouble.kind if trouble else "",
            sentence=trouble.sentence if trouble else "",
            since_ns=self._since_ns,
            delivered=self.shipper.in_flight.delivered,
            set_aside=self.shipper.in_flight.set_aside,
        )
