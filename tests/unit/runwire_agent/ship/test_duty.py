"""Agent of a Kafka destination: the folders it ships, and the moment at which it ends."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runwire.agent_launch import agent_environment
from runwire.settings import Settings
from runwire_agent.agent import Agent
from runwire_agent.duty import STAY_S
from runwire_agent.ship.broker import AUTHENTICATION, UNREACHABLE, Failure, MemoryCluster
from runwire_agent.sync.spool import Sync
from runwire_disk.agents.state import read_states
from runwire_disk.spool.format import destination_of
from runwire_disk.spool.reader import list_folders, read_meta
from runwire_schemas import codec
from runwire_schemas.events import RunEvent
from support.node import Polling, elected_agent, node_settings, watching
from support.shipping import KAFKA
from support.watched import WRITERS, agent_events, close_writers, trainer

ROUTE = {"route": "kafka", "destination": KAFKA.public()}


@pytest.fixture(autouse=True)
def _close_writers() -> Iterator[None]:
    yield
    close_writers()


def agent(root: Path, cluster: MemoryCluster, *, stay_s: float = 600.0) -> Agent:
    return elected_agent(root, KAFKA, cluster, stay_s=stay_s)


def sync(root: Path, cluster: MemoryCluster) -> Sync:
    return Sync(node_settings(root, KAFKA), new_broker=lambda: Polling(cluster))


def run_events(cluster: MemoryCluster) -> list[RunEvent]:
    """Events about runs; order holds within a writer's own records, `seq` beyond."""
    decoded = [codec.decode(message.value) for message in cluster.topics["run"]]
    return sorted((e for e in decoded if isinstance(e, RunEvent)), key=lambda event: event.seq)


def test_agent_delivers_the_records_of_a_killed_trainer_and_ends(tmp_path: Path) -> None:
    """A killed trainer: its records, its end as the agent saw it, and nothing left behind."""
    made = trainer(tmp_path, ends="dies", **ROUTE)
    cluster = MemoryCluster()
    agent(tmp_path, cluster).run()
    events = run_events(cluster)
    assert [(e.event, e.writer) for e in events] == [
        ("started", made.writer),
        ("finished", made.writer),
    ]
    assert events[1].status == "killed"
    assert list_folders(tmp_path) == []


def test_local_folders_and_other_destinations_are_not_touched(tmp_path: Path) -> None:
    """An agent of brokers records no end and ships nothing of another destination."""
    trainer(tmp_path, "local", ends="dies")
    elsewhere = replace(KAFKA, bootstrap_servers="elsewhere:1").public()
    trainer(tmp_path, "elsewhere", ends="dies", route="kafka", destination=elsewhere)
    cluster = MemoryCluster()
    agent(tmp_path, cluster).run()
    assert cluster.topics == {}
    assert {read_meta(f).run_id for f in list_folders(tmp_path)} == {"local", "elsewhere"}
    assert not any((f / "ended.json").exists() for f in list_folders(tmp_path))


def test_local_agent_does_not_touch_kafka_folders(tmp_path: Path) -> None:
    """It watches trainers of the embedded route alone."""
    trainer(tmp_path, ends="dies", **ROUTE)
    with watching(tmp_path) as watch:
        watch.tick(0.0)
    assert agent_events(tmp_path) == []


def test_offline_runs_wait_for_sync(tmp_path: Path) -> None:
    """An agent ships no run of mode offline; `runwire sync` does."""
    trainer(tmp_path, ends="dies", mode="offline", **ROUTE)
    cluster = MemoryCluster()
    agent(tmp_path, cluster).run()
    assert cluster.topics == {}
    delivery = sync(tmp_path, cluster)
    assert delivery.deliver(10.0, lambda _: None) == ""
    delivery.close()
    assert [e.event for e in run_events(cluster)] == ["started", "finished"]
    assert list_folders(tmp_path) == []


def test_agent_waits_for_brokers_and_logs_the_cause_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The cause is logged once and written for `runwire status`; the spool is kept."""
    caplog.set_level(logging.INFO)
    trainer(tmp_path, ends="dies", **ROUTE)
    cause = Failure(AUTHENTICATION, "SASL authentication failed at k:9092 for user 'u'")
    agent(tmp_path, MemoryCluster(away=cause), stay_s=0.5).run()
    assert caplog.text.count(cause.sentence) == 1
    assert "runwire sync" in caplog.text
    (state,) = read_states(tmp_path).values()
    assert (state.cause, state.sentence) == (AUTHENTICATION, cause.sentence)
    assert (state.key, state.destination) == (KAFKA.destination, KAFKA.public())
    assert state.since_ns > 0
    assert {read_meta(f).role for f in list_folders(tmp_path)} == {"trainer", "agent"}
    second = MemoryCluster()
    agent(tmp_path, second).run()
    assert list_folders(tmp_path) == []
    assert [e.event for e in run_events(second)] == ["started", "finished"]


def test_stopped_agent_keeps_undelivered_records(tmp_path: Path) -> None:
    """SIGTERM while brokers are unreachable: one deadline, nothing lost."""
    trainer(tmp_path, **ROUTE)
    made = agent(tmp_path, MemoryCluster(away=Failure(UNREACHABLE, "no broker answers")))
    made.stop.set()
    made.hurry.set()
    made.run()
    assert not made.lock.held()
    WRITERS[0].abandon()
    cluster = MemoryCluster()
    agent(tmp_path, cluster).run()
    assert len(run_events(cluster)) == 2


def test_sync_returns_the_cause_when_brokers_are_unreachable(tmp_path: Path) -> None:
    """Its sentence has the broker's cause, and names the command to run again."""
    trainer(tmp_path, ends="dies", **ROUTE)
    cause = Failure(UNREACHABLE, "no broker answers at k:9092")
    delivery = sync(tmp_path, MemoryCluster(away=cause))
    lines: list[str] = []
    problem = delivery.deliver(0.2, lines.append)
    delivery.close()
    assert cause.sentence in problem
    assert "run `runwire sync` again" in problem
    assert lines


def test_own_folders_of_an_agent_have_its_destination(tmp_path: Path) -> None:
    """Heartbeats and ends go to the same brokers as the trainers' records."""
    trainer(tmp_path, **ROUTE)
    with watching(tmp_path, KAFKA) as watch:
        watch.tick(0.0)
    assert {destination_of(read_meta(f)) for f in list_folders(tmp_path)} == {KAFKA.destination}


def test_the_agent_s_environment_has_the_trainer_s_destination() -> None:
    """Settings from arguments or runwire.toml too; a stale variable does not."""
    settings = Settings(
        kafka_bootstrap_servers="k:9092",
        kafka_sasl_username="agent",
        kafka_sasl_password="hunter2",
        kafka_topic_prefix="team",
        schema_registry_url="http://r:8081",
        agent_stay_s=5.0,
        s3_endpoint="http://s:9000",
        s3_bucket="team",
        s3_access_key="agent",
        s3_secret_key="hunter2",
    )
    stale = {"RUNWIRE_KAFKA_SSL_CA_LOCATION": "/old.pem", "RUNWIRE_S3_REGION": "old"}
    clean = agent_environment(stale, settings)
    again = Settings.resolve({}, clean, cwd="/")
    assert (again.kafka, again.s3) == (settings.kafka, settings.s3)
    assert "RUNWIRE_S3_REGION" not in clean
    assert (again.agent_stay_s, again.schema_registry_url) == (5.0, "http://r:8081")
    assert "RUNWIRE_KAFKA_SSL_CA_LOCATION" not in clean


def test_agent_state_holds_no_secret(tmp_path: Path) -> None:
    """Any user of the node may read the state file."""
    kafka = replace(KAFKA, sasl_username="agent", sasl_password="hunter2")
    elected_agent(tmp_path, kafka, MemoryCluster()).run()
    (path,) = read_states(tmp_path)
    assert "hunter2" not in path.read_text()
    assert json.loads(path.read_text())["key"] == kafka.destination
    assert STAY_S == 600.0
