"""Agents and watch duties of a test, composed as the product composes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from runwire_agent.agent import Agent, agent_lock, make_agent
from runwire_agent.duty import Stay
from runwire_agent.own_spool import OwnSpool
from runwire_agent.ship.broker import MemoryBroker, MemoryCluster
from runwire_agent.watch.duty import HEARTBEAT_INTERVAL_S, WatchDuty
from runwire_agent.watch.trainers import AgentPlace
from runwire_disk.settings import NodeSettings
from runwire_disk.spool.format import LOCAL
from runwire_schemas.connections.kafka import KafkaSettings

SCAN_S = 0.02


class Polling(MemoryBroker):
    """Waits in `poll` like a client does, so that loops with the real clock rest."""

    def poll(self, timeout_s: float) -> None:
        super().poll(timeout_s)
        time.sleep(min(timeout_s, 0.01))


def node_settings(
    root: Path, kafka: KafkaSettings | None = None, *, stay_s: float = 600.0
) -> NodeSettings:
    """The settings that an agent of `root` and these brokers is handed."""
    given = {} if kafka is None else {f"kafka_{k}": v for k, v in asdict(kafka).items() if v}
    return NodeSettings(dir=str(root), agent_stay_s=stay_s, **given)


def elected_agent(
    root: Path,
    kafka: KafkaSettings | None = None,
    cluster: MemoryCluster | None = None,
    *,
    stay_s: float = 600.0,
    idle_s: float | None = 0.0,
    heartbeat_s: float = HEARTBEAT_INTERVAL_S,
) -> Agent:
    """An agent that holds its lock; its brokers write to `cluster`."""
    settings = node_settings(root, kafka, stay_s=stay_s)
    lock = agent_lock(settings)
    assert lock.acquire()
    new_broker: Callable[[], MemoryBroker] | None = None
    if cluster is not None:
        new_broker = lambda: Polling(cluster)  # noqa: E731
    return make_agent(
        lock,
        settings,
        exit_when_idle_s=idle_s,
        heartbeat_s=heartbeat_s,
        scan_s=SCAN_S,
        new_broker=new_broker,
    )


@contextmanager
def watching(root: Path, kafka: KafkaSettings | None = None) -> Iterator[WatchDuty]:
    """The watch duty of an agent; its own spool folders are closed afterwards."""
    own = OwnSpool(root, kafka)
    place = AgentPlace(root, LOCAL if kafka is None else kafka.destination)
    try:
        yield WatchDuty(place, own, Stay())
    finally:
        own.close()
