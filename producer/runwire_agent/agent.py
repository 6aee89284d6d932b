"""The agent: a lock, a state file and a loop over its duties: watch, ship, upload."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from runwire_agent.duty import Duty, Stay
from runwire_agent.own_spool import OwnSpool
from runwire_agent.ship.broker import Broker
from runwire_agent.ship.duty import ShipDuty, make_shipper
from runwire_agent.state import StateFile
from runwire_agent.upload.duty import UploadDuty
from runwire_agent.watch.duty import HEARTBEAT_INTERVAL_S, WatchDuty
from runwire_agent.watch.trainers import AgentPlace
from runwire_disk import fork
from runwire_disk.agents.lock import AgentLock, node_lock
from runwire_disk.settings import NodeSettings
from runwire_disk.spool.format import LOCAL
from runwire_schemas.connections.kafka import KafkaSettings

__all__ = ["Agent", "agent_lock", "make_agent", "run_in_thread"]

_log = logging.getLogger("runwire.agent")
SCAN_INTERVAL_S = 0.5  # a dead trainer is noticed within 2 s: four looks
FLUSH_S = 5.0  # of an agent that ends; the next one delivers the rest


class Agent:
    """Runs duties in their order while it holds its lock; the one that ships comes last.

    Threads: one; `stop` and `hurry` may be set from anywhere.
    """

    def __init__(
        self,
        lock: AgentLock,
        state: StateFile,
        own: OwnSpool,
        duties: Sequence[Duty],
        *,
        stay: Stay,
        scan_s: float = SCAN_INTERVAL_S,
    ) -> None:
        self.lock = lock
        self.stop = threading.Event()
        self.hurry = threading.Event()  # with `stop`: end at once, deliver later
        self.ended = threading.Event()
        self._state, self._own, self._stay = state, own, stay
        self._duties = tuple(duties)
        self._scan_s = scan_s
        fork.register(self)

    def run(self) -> None:
        """Work until `stop` is set, the root is deleted, or no trainer lives any more."""
        while not self.stop.is_set():
            now_s = time.monotonic()
            self._tick(now_s)
            if not self.lock.still_ours():
                _log.warning(
                    "%s was deleted; this agent ends, the next init starts another", self.lock.path
                )
                break
            if self._stay.is_idle(now_s) and self._may_leave(now_s):
                break
            self._rest(now_s + self._scan_s)
        if self.stop.is_set():
            self._tick(time.monotonic(), is_last=True)
        self._close()

    def _tick(self, now_s: float, *, is_last: bool = False) -> None:
        for duty in self._duties:
            duty.tick(now_s, is_last=is_last)
        self._write_state()

    def _rest(self, until_s: float) -> None:
        for duty in self._duties:
            duty.rest(until_s, self.stop)
        self._write_state()
        self.stop.wait(max(0.0, until_s - time.monotonic()))

    def _write_state(self, *, at_once: bool = False) -> None:
        facts = {name: fact for duty in self._duties for name, fact in duty.facts().items()}
        self._state.update(at_once=at_once, **facts)

    def _may_leave(self, now_s: float) -> bool:
        """Free the lock, then look once more: a trainer that came meanwhile saw it held.

        A trainer makes its folder before it looks for an agent, so one of them sees the other.
        """
        if not all(duty.may_end(now_s) for duty in self._duties):
            return False
        for duty in self._duties:
            duty.flush(time.monotonic() + FLUSH_S)
        self._own.close()
        self.lock.release()
        if any(duty.is_needed() for duty in self._duties) and self.lock.acquire():
            self._stay.trainer_at_s = time.monotonic()
            return False
        return True

    def _close(self) -> None:
        """End the duties, close this agent's own spool folders and free the lock."""
        fork.unregister(self)
        deadline_s = time.monotonic() + (0.0 if self.hurry.is_set() else FLUSH_S)
        for duty in self._duties:
            duty.end(deadline_s)
        self._own.close()
        self._write_state(at_once=True)
        self.lock.release()
        self.ended.set()

    def after_fork_in_child(self) -> None:
        """Forget lock, folders and connections: they are the parent's."""
        self.stop.set()
        self.ended.set()
        self.lock.release()
        self._own.abandon()
        for duty in self._duties:
            duty.abandon()


def agent_lock(settings: NodeSettings) -> AgentLock:
    """Return the lock of the agent for this process's boot, namespace and destination."""
    return node_lock(settings.root, _destination(settings.kafka))


def make_agent(
    lock: AgentLock,
    settings: NodeSettings,
    *,
    mode: str = "process",
    exit_when_idle_s: float | None = None,
    heartbeat_s: float = HEARTBEAT_INTERVAL_S,
    scan_s: float = SCAN_INTERVAL_S,
    new_broker: Callable[[], Broker] | None = None,
) -> Agent:
    """Return the agent of the destination that `settings` name; the caller holds its `lock`.

    `new_broker` replaces the Kafka client, once for records and once for pieces of content.
    """
    kafka, root = settings.kafka, settings.root
    place, own = AgentPlace(root, _destination(kafka)), OwnSpool(root, kafka)
    stay = Stay(idle_s=exit_when_idle_s, stay_s=settings.agent_stay_s)
    shipping: list[ShipDuty] = []
    if kafka is not None:
        shipper = make_shipper(settings, kafka, place.reads, new_broker)
        shipping.append(ShipDuty(shipper, own, stay))
    uploads = UploadDuty(
        settings,
        own,
        stay,
        is_behind=lambda: any(duty.is_behind for duty in shipping),
        is_nice=mode == "process",
        new_broker=new_broker,
    )
    watch = WatchDuty(place, own, stay, heartbeat_s=heartbeat_s)
    state = StateFile(lock.path, kafka, mode=mode)
    return Agent(lock, state, own, [watch, uploads, *shipping], stay=stay, scan_s=scan_s)


def run_in_thread(root: Path, settings: NodeSettings) -> Agent | None:
    """Be the agent in a daemon thread of this process; None when another process is already.

    The exception to "no thread in the trainer": its own SIGKILL goes unrecorded until the next
    agent looks.
    """
    settings = replace(settings, dir=str(root))
    lock = agent_lock(settings)
    if not lock.acquire(timeout_s=0.0):
        return None
    try:
        agent = make_agent(lock, settings, mode="thread")
    except BaseException:
        lock.release()
        raise
    threading.Thread(target=agent.run, name="runwire-agent", daemon=True).start()
    return agent


def _destination(kafka: KafkaSettings | None) -> str:
    return LOCAL if kafka is None else kafka.destination
