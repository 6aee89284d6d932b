"""The agent of a Kafka destination: what it ships, when it stays and when it leaves."""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runwire.agent_launch import agent_environment
from runwire.settings import Settings
from runwire_agent import agent as loop
from runwire_agent.agent import Agent
from runwire_agent.ship import duty as delivery
from runwire_agent.ship.broker import AUTHENTICATION, UNREACHABLE, Cluster, Failure, MemoryBroker
from runwire_agent.sync.spool import Sync
from runwire_disk.agents.state import read_states
from runwire_disk.spool.destination import destination_of
from runwire_disk.spool.reader import list_folders, read_meta
from runwire_schemas import codec
from runwire_schemas.events import RunEvent
from support.shipping import KAFKA
from support.watched import WRITERS, agent_events, close_writers, trainer

ROUTE = {"route": "kafka", "destination": KAFKA.public()}


@pytest.fixture(autouse=True)
def _close_writers() -> Iterator[None]:
    yield
    close_writers()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SCAN_INTERVAL_S", 0.02)
    monkeypatch.setattr(loop, "FLUSH_S", 10.0)


class Polling(MemoryBroker):
    """Waits in `poll` like a client does, so that loops with the real clock rest."""

    def poll(self, timeout_s: float) -> None:
        super().poll(timeout_s)
        time.sleep(min(timeout_s, 0.01))


def agent(root: Path, cluster: Cluster, *, stay_s: float = 600.0) -> Agent:
    made = Agent(root, exit_when_idle_s=0.0, kafka=KAFKA, stay_s=stay_s, broker=Polling(cluster))
    assert made.lock.acquire()
    return made


def run_events(cluster: Cluster) -> list[RunEvent]:
    """What was said of runs; order holds within a writer's own records, `seq` beyond."""
    decoded = [codec.decode(message.value) for message in cluster.topics["run"]]
    return sorted((e for e in decoded if isinstance(e, RunEvent)), key=lambda event: event.seq)


def test_it_delivers_everything_and_leaves(tmp_path: Path) -> None:
    """A killed trainer: its records, its end as the agent saw it, and nothing left behind."""
    made = trainer(tmp_path, ends="dies", **ROUTE)
    cluster = Cluster()
    agent(tmp_path, cluster).run()
    events = run_events(cluster)
    assert [(e.event, e.writer) for e in events] == [
        ("started", made.writer),
        ("finished", made.writer),
    ]
    assert events[1].status == "killed"
    assert list_folders(tmp_path) == []


def test_local_folders_and_other_destinations_are_not_touched(tmp_path: Path) -> None:
    trainer(tmp_path, "local", ends="dies")
    elsewhere = replace(KAFKA, bootstrap_servers="elsewhere:1").public()
    trainer(tmp_path, "elsewhere", ends="dies", route="kafka", destination=elsewhere)
    cluster = Cluster()
    agent(tmp_path, cluster).run()
    assert cluster.topics == {}
    assert {read_meta(f).run_id for f in list_folders(tmp_path)} == {"local", "elsewhere"}
    assert not any((f / "ended.json").exists() for f in list_folders(tmp_path))


def test_the_local_agent_leaves_kafka_folders(tmp_path: Path) -> None:
    trainer(tmp_path, ends="dies", **ROUTE)
    watcher = Agent(tmp_path)
    watcher.tick(0.0)
    watcher.close()
    assert agent_events(tmp_path) == []


def test_offline_runs_wait_for_sync(tmp_path: Path) -> None:
    trainer(tmp_path, ends="dies", mode="offline", **ROUTE)
    cluster = Cluster()
    agent(tmp_path, cluster).run()
    assert cluster.topics == {}
    sync = Sync(Settings(dir=str(tmp_path)), KAFKA, broker=Polling(cluster))
    assert sync.deliver(10.0, lambda _: None) == ""
    sync.close()
    assert [e.event for e in run_events(cluster)] == ["started", "finished"]
    assert list_folders(tmp_path) == []


def test_without_brokers_it_stays_and_then_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The cause is told once and left for `runwire status`; the spool is kept."""
    caplog.set_level(logging.INFO)
    trainer(tmp_path, ends="dies", **ROUTE)
    cause = Failure(AUTHENTICATION, "SASL authentication failed at k:9092 for user 'u'")
    agent(tmp_path, Cluster(away=cause), stay_s=0.5).run()
    assert caplog.text.count(cause.sentence) == 1
    assert "runwire sync" in caplog.text
    (state,) = read_states(tmp_path).values()
    assert (state.cause, state.sentence) == (AUTHENTICATION, cause.sentence)
    assert (state.key, state.destination) == (KAFKA.destination, KAFKA.public())
    assert state.since_ns > 0
    assert {read_meta(f).role for f in list_folders(tmp_path)} == {"trainer", "agent"}
    second = Cluster()
    agent(tmp_path, second).run()
    assert list_folders(tmp_path) == []
    assert [e.event for e in run_events(second)] == ["started", "finished"]


def test_a_stopped_agent_keeps_what_is_not_delivered(tmp_path: Path) -> None:
    """SIGTERM with brokers away: one deadline, nothing lost."""
    trainer(tmp_path, **ROUTE)
    made = agent(tmp_path, Cluster(away=Failure(UNREACHABLE, "no broker answers")))
    made.stop.set()
    made.hurry.set()
    made.run()
    assert not made.lock.held()
    WRITERS[0].abandon()
    cluster = Cluster()
    agent(tmp_path, cluster).run()
    assert len(run_events(cluster)) == 2


def test_sync_says_why_it_could_not(tmp_path: Path) -> None:
    trainer(tmp_path, ends="dies", **ROUTE)
    cause = Failure(UNREACHABLE, "no broker answers at k:9092")
    sync = Sync(Settings(dir=str(tmp_path)), KAFKA, broker=Polling(Cluster(away=cause)))
    said_lines: list[str] = []
    problem = sync.deliver(0.2, said_lines.append)
    sync.close()
    assert cause.sentence in problem
    assert "run `runwire sync` again" in problem
    assert said_lines


def test_its_own_folders_have_its_route(tmp_path: Path) -> None:
    trainer(tmp_path, **ROUTE)
    made = Agent(tmp_path, kafka=KAFKA)
    made.tick(0.0)
    made.close()
    assert {destination_of(read_meta(f)) for f in list_folders(tmp_path)} == {KAFKA.destination}


def test_the_destination_travels_in_the_environment() -> None:
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


def test_the_state_holds_no_secret(tmp_path: Path) -> None:
    kafka = replace(KAFKA, sasl_username="agent", sasl_password="hunter2")
    made = Agent(tmp_path, exit_when_idle_s=0.0, kafka=kafka, broker=Polling(Cluster()))
    assert made.lock.acquire()
    made.run()
    (path,) = read_states(tmp_path)
    assert "hunter2" not in path.read_text()
    assert json.loads(path.read_text())["key"] == kafka.destination
    assert delivery.STAY_S == 600.0
