"""Agents that the embedded stack starts: for its own route, and only when there is work."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire_consumers.stack import agent
from runwire_disk.agents.lock import AgentLock, local_agents, lock_path
from support.shipping import KAFKA
from support.uploads import for_kafka, leave
from support.watched import close_writers, trainer

S3 = {"endpoint": "http://s:9000", "bucket": "b12"}


@pytest.fixture(autouse=True)
def _close_writers() -> Iterator[None]:
    yield
    close_writers()


def test_the_stack_starts_agents_for_its_own_route_only(tmp_path: Path) -> None:
    """An agent that ships elsewhere does not watch local trainers, and the other way round."""
    trainer(tmp_path, route="kafka", destination=KAFKA.public())
    lock = AgentLock(lock_path(tmp_path, "boot", "ns", KAFKA.destination))
    assert lock.acquire()
    assert local_agents(tmp_path) == []
    assert agent.live_trainers(tmp_path) == []
    assert not agent.ensure_agent(tmp_path)
    lock.release()
    trainer(tmp_path, "local")
    assert agent.live_trainers(tmp_path) == ["local"]


def test_the_stack_has_work_for_uploads_that_its_agent_can_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for brokers, not for a store that it has no keys of, not online for offline runs."""
    leave(tmp_path, **for_kafka())
    leave(tmp_path, store=S3)
    assert not agent.has_work(tmp_path)
    monkeypatch.setenv("RUNWIRE_S3_ENDPOINT", "http://s:9000")
    assert agent.has_work(tmp_path)
    monkeypatch.delenv("RUNWIRE_S3_ENDPOINT")
    leave(tmp_path, mode="offline")
    assert agent.has_work(tmp_path)
