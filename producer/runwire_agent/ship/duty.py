"""The ship duty: runs the shipper, logs causes of trouble, decides when waiting is hopeless."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from runwire_agent.duty import Stay
from runwire_agent.own_spool import OwnSpool
from runwire_agent.ship.broker import Broker, Failure, schema_ids
from runwire_agent.ship.shipper import IN_FLIGHT_BYTES_MAX, Shipper
from runwire_disk.settings import NodeSettings
from runwire_disk.spool.folder_set import Accepts
from runwire_schemas.connections.kafka import KafkaSettings

__all__ = ["ShipDuty", "make_shipper"]

_log = logging.getLogger("runwire.agent")
# A quarter of the shipper's limit in flight; 100,000 points/s keep a tenth of the limit there.
BEHIND_BYTES = IN_FLIGHT_BYTES_MAX // 4
LAST_LOOK_S = 1.0  # for a trainer's folder made since the last look


class ShipDuty:
    """Ships the spool folders of one destination, the agent's own last of all."""

    def __init__(self, shipper: Shipper, own: OwnSpool, stay: Stay) -> None:
        self.shipper = shipper
        self._own, self._stay = own, stay
        self._trouble: Failure | None = None
        self._since_ns = 0

    def tick(self, now_s: float, *, is_last: bool = False) -> None:
        """Log a change of the cause that stops deliveries; `rest` does the shipping."""
        trouble = self.shipper.trouble
        if trouble == self._trouble:
            return
        # librdkafka varies its words; the same cause is logged once.
        if trouble is not None and (self._trouble is None or trouble.kind != self._trouble.kind):
            _log.warning("%s. The spool keeps everything", trouble.sentence)
            self._since_ns = time.time_ns()
        elif trouble is None:
            _log.info("delivering again")
            self._since_ns = 0
        self._trouble = trouble

    def rest(self, until_s: float, stop: threading.Event) -> None:
        """Ship. Blocks: until then."""
        while not stop.is_set() and (left_s := until_s - time.monotonic()) > 0:
            self.shipper.step(left_s)
        self.tick(time.monotonic())

    def facts(self) -> Mapping[str, Any]:
        """Return counts of deliveries, and the cause while they wait."""
        trouble = self._trouble
        return {
            "cause": trouble.kind if trouble else "",
            "sentence": trouble.sentence if trouble else "",
            "since_ns": self._since_ns,
            "delivered": self.shipper.in_flight.delivered,
            "set_aside": self.shipper.in_flight.set_aside,
        }

    def may_end(self, now_s: float) -> bool:
        """Whether everything is delivered, or nothing was for the time that an agent stays."""
        if self.shipper.is_idle and self.shipper.flush(time.monotonic() + LAST_LOOK_S):
            return True
        if not self._stay.is_over(self.shipper.delivered_s, now_s):
            return False
        _log.warning(
            "ending with records in the spool: no broker took any for %g s. The next agent or "
            "`runwire sync` ships them",
            self._stay.stay_s,
        )
        return True

    def is_needed(self) -> bool:
        """Return false: the watch duty looks for living trainers."""
        return False

    def flush(self, deadline_s: float) -> bool:
        """Deliver everything written so far; false at once while brokers are in trouble.

        Blocks: until then.
        """
        self._own.close()  # a closed folder is delivered to its end and removed
        return self.shipper.trouble is None and self.shipper.flush(deadline_s)

    def end(self, deadline_s: float) -> None:
        """Deliver until the deadline, and keep the rest. Blocks: until then."""
        if not self.flush(deadline_s):
            _log.warning("ending before everything is delivered; the spool keeps the rest")
        self.shipper.close()
        self.tick(time.monotonic())

    @property
    def is_behind(self) -> bool:
        """Whether more is in flight than a live trainer makes: uploads yield then."""
        return self.shipper.in_flight.bytes >= BEHIND_BYTES

    def abandon(self) -> None:
        """Leave folders and connection to the parent process, in a forked child of it."""
        self.shipper.in_flight.broker.abandon()
        self.shipper.folders.close()
        self.shipper.journal.abandon()


def make_shipper(
    settings: NodeSettings,
    kafka: KafkaSettings,
    accepts: Accepts,
    new_broker: Callable[[], Broker] | None = None,
) -> Shipper:
    """Return a shipper of the folders that `accepts` names, to `kafka` unless there is another."""
    if new_broker is None:
        from runwire_agent.ship.kafka import KafkaBroker

        broker: Broker = KafkaBroker(kafka)
    else:
        broker = new_broker()
    return Shipper(
        settings.root,
        kafka.destination,
        broker,
        accepts=accepts,
        value_of=schema_ids(settings.schema_registry_url, kafka.topic_prefix),
    )
