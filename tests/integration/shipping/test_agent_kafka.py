"""The agent as a process and a real broker: kills, outages, missing topics, two destinations."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runwire_agent.ship.broker import UNKNOWN_TOPIC, UNREACHABLE
from runwire_disk.spool.reader import list_folders
from runwire_schemas import codec
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.events import RunEvent
from runwire_schemas.registry import Registry as SchemaRegistry
from runwire_schemas.topics import TOPICS
from support.agents import Agents
from support.kafka_log import read_topic
from support.servers import Cluster, Registry
from support.shipping import distinct_batches, points_of
from support.topics import make_topics
from support.watched import wait_until

END_S = 60
KINDS = [kind for kind, topic in TOPICS.items() if topic.schema is not None]


@pytest.fixture
def settings(kafka: Cluster, topic_prefix: str) -> KafkaSettings:
    """A destination with all its topics."""
    make_topics(kafka.settings, topic_prefix, KINDS)
    return replace(kafka.settings, topic_prefix=topic_prefix)


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    made = Agents(tmp_path)
    yield made
    made.close()


def values(settings: KafkaSettings) -> list[tuple[int, str, float]]:
    """(call, name, value) of the distinct batches in the topic, whose repeats must be equal."""
    points = points_of(distinct_batches(read_topic(settings, "metric")))
    assert len(points) == len(set(points))
    return sorted(point[1:] for point in points)


def expected(steps: int) -> list[tuple[int, str, float]]:
    return sorted(p for n in range(steps) for p in ((n, "a", float(n)), (n, "b", n / 8)))


def ends(settings: KafkaSettings) -> list[str | None]:
    events = [codec.decode(message.value) for message in read_topic(settings, "run")]
    return [e.status for e in events if isinstance(e, RunEvent) and e.event == "finished"]


def test_logged_points_arrive_once_in_the_topic(agents: Agents, settings: KafkaSettings) -> None:
    """From `log` to the topic: right key and headers, no repeats, no spool folder left."""
    agent = agents.agent(settings, idle_s=1.0)
    assert agents.trainer(settings, steps=500, pause_s=0.001).wait(END_S) == 0
    assert agent.wait(END_S) == 0, agents.log_text()
    messages = read_topic(settings, "metric")
    assert len(messages) == len(distinct_batches(messages))
    assert values(settings) == expected(500)
    assert ends(settings) == ["finished"]
    assert list_folders(agents.root) == []


@pytest.mark.parametrize("nth", range(2))
def test_killed_agent_repeats_batches_byte_for_byte(
    agents: Agents, settings: KafkaSettings, seed: int, nth: int
) -> None:
    """Killed at random moments: every point arrives, and a batch number has one content."""
    chance = random.Random(f"{seed}/{nth}")
    trainer = agents.trainer(settings, steps=3000, pause_s=0.001)
    while trainer.poll() is None:
        agent = agents.agent(settings, idle_s=30)
        time.sleep(chance.uniform(0.4, 1.2))
        agent.kill()
        agent.wait()
    assert trainer.returncode == 0
    assert agents.agent(settings).wait(END_S) == 0, agents.log_text()
    assert values(settings) == expected(3000)
    assert set(ends(settings)) == {"finished"}
    assert list_folders(agents.root) == []


def test_agent_delivers_everything_after_a_broker_outage(
    agents: Agents, settings: KafkaSettings, kafka: Cluster
) -> None:
    """The trainer notices nothing, the state names the address, and everything arrives."""
    agent = agents.agent(settings, idle_s=1.0)
    trainer = agents.trainer(settings, steps=4000, pause_s=0.001)
    wait_until(lambda: agents.acked > 300)
    kafka.stop()
    try:
        wait_until(lambda: agents.state().cause == UNREACHABLE)
        assert kafka.bootstrap in agents.state().sentence
    finally:
        kafka.start()
    assert trainer.wait(END_S) == 0
    assert agent.wait(END_S) == 0, agents.log_text()
    assert values(settings) == expected(4000)
    assert "delivering again" in agents.log_text()


def test_agent_reports_a_missing_topic_and_waits_for_it(
    agents: Agents, kafka: Cluster, topic_prefix: str
) -> None:
    """`runwire status` names the topic and what is pending; once it exists everything arrives."""
    make_topics(kafka.settings, topic_prefix, [kind for kind in KINDS if kind != "metric"])
    settings = replace(kafka.settings, topic_prefix=topic_prefix)
    agent = agents.agent(settings, idle_s=1.0)
    assert agents.trainer(settings, steps=50).wait(END_S) == 0
    wait_until(lambda: agents.state().cause == UNKNOWN_TOPIC)
    told = subprocess.run(
        [sys.executable, "-m", "runwire.cli", "status", "--dir", str(agents.root), "--json"],
        capture_output=True,
        check=True,
        timeout=END_S,
    )
    (entry,) = json.loads(told.stdout)["destinations"]
    assert (entry["agent_pid"], entry["pending_points"]) == (agent.pid, 100)
    assert entry["error"] == agents.state().sentence
    assert entry["destination"] == settings.public()
    assert f"topic {topic_prefix}.metric.v1 does not exist" in agents.state().sentence
    assert "runwire migrate" in agents.log_text()
    make_topics(kafka.settings, topic_prefix, ["metric"])
    assert agent.wait(END_S) == 0, agents.log_text()
    assert values(settings) == expected(50)


def test_two_destinations_have_one_agent_each(
    agents: Agents, settings: KafkaSettings, kafka: Cluster, topic_prefix: str
) -> None:
    """Two prefixes on one cluster are two destinations; no point crosses over."""
    other = replace(settings, topic_prefix=f"{topic_prefix}.b")
    make_topics(kafka.settings, other.topic_prefix, KINDS)
    assert agents.trainer(settings, steps=20).wait(END_S) == 0
    assert agents.trainer(other, steps=30).wait(END_S) == 0
    both = [agents.agent(settings), agents.agent(other)]
    assert [agent.wait(END_S) for agent in both] == [0, 0]
    assert values(settings) == expected(20)
    assert values(other) == expected(30)


def test_agent_thread_delivers_before_the_trainer_ends(
    agents: Agents, settings: KafkaSettings
) -> None:
    """With RUNWIRE_AGENT=thread a short script leaves nothing behind, its end included."""
    assert agents.trainer(settings, steps=50, mode="thread").wait(END_S) == 0
    assert values(settings) == expected(50)
    assert ends(settings) == ["finished"]
    assert list_folders(agents.root) == []


def test_agent_delivers_logged_points_when_stopped_by_sigterm(
    agents: Agents, settings: KafkaSettings
) -> None:
    """Points logged before SIGTERM are delivered; later ones wait for the next agent."""
    trainer = agents.trainer(settings, steps=100_000, pause_s=0.001)
    wait_until(lambda: agents.acked > 100)
    agent = agents.agent(settings)
    wait_until(lambda: agents.state().pid == agent.pid)
    acked = agents.acked
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(END_S) == 0
    assert len(values(settings)) >= 2 * acked
    trainer.kill()
    trainer.wait()
    assert agents.agent(settings).wait(END_S) == 0
    assert values(settings)[: 2 * acked] == expected(agents.acked)[: 2 * acked]
    assert ends(settings) == ["killed"]


def test_agent_uses_registry_ids_or_the_bundled_ones(
    agents: Agents, settings: KafkaSettings, registry: Registry
) -> None:
    """Messages carry the ids of the registry; if it does not answer, the bundled ids."""
    client = SchemaRegistry(registry.url, prefix=settings.topic_prefix)
    ids = {kind: client.register(kind).schema_id for kind in KINDS}
    assert agents.trainer(settings, steps=20).wait(END_S) == 0
    agent = agents.agent(settings, RUNWIRE_SCHEMA_REGISTRY_URL=registry.url)
    assert agent.wait(END_S) == 0, agents.log_text()
    for kind in ("run", "metric"):
        for message in read_topic(settings, kind):
            assert int.from_bytes(message.value[1:5]) == ids[kind]
    assert agents.trainer(settings, steps=20).wait(END_S) == 0
    agent = agents.agent(settings, RUNWIRE_SCHEMA_REGISTRY_URL="http://127.0.0.1:1")
    assert agent.wait(END_S) == 0, agents.log_text()
    found = {int.from_bytes(message.value[1:5]) for message in read_topic(settings, "metric")}
    assert found == {ids["metric"], codec.bundled_id("metric")}


def sync(root: Path, settings: KafkaSettings, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runwire.cli", "sync", "--dir", str(root), *words],
        env=os.environ | settings.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=END_S,
    )


def test_sync_ships_the_spool_of_offline_runs(agents: Agents, settings: KafkaSettings) -> None:
    """`runwire sync` delivers every point of an offline run and removes its spool folder."""
    assert agents.trainer(settings, steps=40).wait(END_S) == 0
    done = sync(agents.root, settings, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["ok"], told["points"], told["pending_points"]) == (True, 80, 0)
    assert values(settings) == expected(40)
    assert list_folders(agents.root) == []


def test_sync_fails_with_a_sentence_when_no_broker_answers(
    agents: Agents, settings: KafkaSettings
) -> None:
    """The sentence names the address; the spool stays until it is shipped elsewhere by force."""
    nowhere = replace(settings, bootstrap_servers="127.0.0.1:1")
    assert agents.trainer(nowhere, steps=5).wait(END_S) == 0
    done = sync(agents.root, nowhere, "--timeout-s", "1")
    assert done.returncode == 1
    assert "no broker answers at 127.0.0.1:1" in done.stderr
    assert len(list_folders(agents.root)) == 1
    moved = sync(agents.root, settings, "--to", "kafka")
    assert moved.returncode == 1, "a batch was sent towards the first address"
    assert "may already be stored at 127.0.0.1:1" in moved.stderr
    assert sync(agents.root, settings, "--to", "kafka", "--force").returncode == 0
    assert values(settings) == expected(5)
