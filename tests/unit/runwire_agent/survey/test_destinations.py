"""`runwire status` says of each Kafka destination what waits, since when, and why."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runwire_consumers.stack import agent, survey
from runwire_consumers.stack.destinations import destinations
from runwire_disk.agents.lock import AgentLock, lock_path
from runwire_disk.agents.state import STATE_SUFFIX, AgentState, write_state
from runwire_schemas.connections.kafka import KafkaSettings
from support.shipping import KAFKA, kafka_writer
from support.spools import metric_log, new_writer
from support.watched import close_writers, trainer

OTHER = replace(KAFKA, topic_prefix="team-b")
SENTENCE = "SASL authentication failed at k:9092"


@pytest.fixture(autouse=True)
def _close_writers() -> Iterator[None]:
    yield
    close_writers()


def shipping_agent(root: Path, kafka: KafkaSettings, sentence: str = "") -> AgentLock:
    """A held lock and the state beside it, as a living agent has them."""
    lock = AgentLock(lock_path(root, "boot", "ns", kafka.destination))
    assert lock.acquire()
    state = AgentState(
        key=kafka.destination,
        destination=kafka.public(),
        cause="authentication" if sentence else "",
        sentence=sentence,
        since_ns=time.time_ns() - 600_000_000_000,
    )
    write_state(lock.path.with_suffix(STATE_SUFFIX), state)
    return lock


def test_what_waits_is_told_by_destination(tmp_path: Path) -> None:
    """Two prefixes on one cluster are two destinations; local runs belong to none."""
    for kafka, points in ((KAFKA, 3), (OTHER, 5)):
        writer = kafka_writer(tmp_path, kafka)
        log = metric_log(writer)
        for _ in range(points):
            log.log({"a": 1.0})
        writer.close()
    new_writer(tmp_path).close()
    found = {entry["key"]: entry for entry in destinations(tmp_path)}
    assert {key: e["pending_points"] for key, e in found.items()} == {
        KAFKA.destination: 3,
        OTHER.destination: 5,
    }
    assert found[OTHER.destination]["destination"] == OTHER.public()
    text = survey.as_text(survey.survey(tmp_path))
    assert "k:9092 (team-b.*): no agent, 5 points of 1 runs pending" in text
    assert "runwire sync" in text


def test_the_cause_is_shown(tmp_path: Path) -> None:
    lock = shipping_agent(tmp_path, KAFKA, SENTENCE)
    (entry,) = destinations(tmp_path)
    assert entry["agent_pid"] is not None
    assert (entry["cause"], entry["error"]) == ("authentication", SENTENCE)
    assert f"not delivered for 10 min: {SENTENCE}" in survey.as_text(survey.survey(tmp_path))
    lock.release()
    assert destinations(tmp_path) == [], "an agent that ended and left nothing is no news"


def test_records_set_aside_are_counted(tmp_path: Path) -> None:
    writer = kafka_writer(tmp_path)
    (writer.folder / "oversized-lifecycle-0.bin").write_bytes(b"x")
    writer.close()
    (entry,) = destinations(tmp_path)
    assert entry["oversized"] == 1
    assert "oversized-*.bin" in survey.as_text(survey.survey(tmp_path))


def test_the_stack_starts_agents_for_its_own_route_only(tmp_path: Path) -> None:
    """An agent that ships elsewhere does not watch local trainers, and the other way round."""
    trainer(tmp_path, route="kafka", destination=KAFKA.public())
    lock = shipping_agent(tmp_path, KAFKA)
    assert agent.running(tmp_path) == []
    assert agent.live_trainers(tmp_path) == []
    assert not agent.ensure(tmp_path)
    lock.release()
    trainer(tmp_path, "local")
    assert agent.live_trainers(tmp_path) == ["local"]
