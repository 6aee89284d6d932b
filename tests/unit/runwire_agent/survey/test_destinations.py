"""The section of `runwire status` about Kafka destinations: what waits, since when, and why."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runwire_agent.survey.destinations import destinations, survey_agents
from runwire_disk.agents.lock import AgentLock, lock_path
from runwire_disk.agents.state import STATE_SUFFIX, AgentState, write_state
from runwire_schemas.connections.kafka import KafkaSettings
from support.shipping import KAFKA, kafka_writer
from support.spools import metric_log, new_writer
from support.watched import close_writers

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


def test_pending_points_are_counted_per_destination(tmp_path: Path) -> None:
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
    text = "\n".join(survey_agents(tmp_path).lines)
    assert "k:9092 (team-b.*): no agent, 5 points of 1 runs pending" in text
    assert "runwire sync" in text


def test_cause_of_an_agent_is_shown_while_it_lives(tmp_path: Path) -> None:
    """One that ended and left nothing in the spool is no longer listed."""
    lock = shipping_agent(tmp_path, KAFKA, SENTENCE)
    (entry,) = destinations(tmp_path)
    assert entry["agent_pid"] is not None
    assert (entry["cause"], entry["error"]) == ("authentication", SENTENCE)
    assert f"not delivered for 10 min: {SENTENCE}" in "\n".join(survey_agents(tmp_path).lines)
    assert survey_agents(tmp_path).facts["agent"] == {"alive": True, "pid": entry["agent_pid"]}
    lock.release()
    assert destinations(tmp_path) == [], "an agent that ended and left nothing is no news"


def test_oversized_records_are_counted_and_named(tmp_path: Path) -> None:
    """They stay on this disk for good, so status shows where."""
    writer = kafka_writer(tmp_path)
    (writer.folder / "oversized-lifecycle-0.bin").write_bytes(b"x")
    writer.close()
    (entry,) = destinations(tmp_path)
    assert entry["oversized"] == 1
    assert "oversized-*.bin" in "\n".join(survey_agents(tmp_path).lines)
