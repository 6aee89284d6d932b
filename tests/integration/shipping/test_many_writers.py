"""An agent of more writers than it may hold files for, as a process and with a real broker."""

import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runwire_disk.descriptors import allow_many_files
from runwire_disk.host import boot_id, hostname, pid_namespace
from runwire_disk.spool.reader import list_folders
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import TOPICS
from support.agents import Agents
from support.kafka_log import read_topic
from support.servers import Cluster
from support.shipping import distinct_batches, kafka_writer, points_of
from support.spools import metric_log
from support.topics import make_topics
from support.watched import wait_until

WRITERS = 500
ROUNDS = 3
END_S = 120
KINDS = [kind for kind, topic in TOPICS.items() if topic.schema is not None]


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    made = Agents(tmp_path)
    yield made
    made.close()


@pytest.fixture
def settings(kafka: Cluster, topic_prefix: str) -> KafkaSettings:
    """A destination with all its topics."""
    make_topics(kafka.settings, topic_prefix, KINDS)
    return replace(kafka.settings, topic_prefix=topic_prefix)


@pytest.mark.parametrize("files", [(1024, 4096), (256, 256)], ids=["soft limit", "hard limit"])
def test_agent_short_of_descriptors_delivers_all_and_ends_in_order(
    agents: Agents, settings: KafkaSettings, seed: int, files: tuple[int, int]
) -> None:
    """500 writers: a low soft limit is raised; a low hard one is reported as what it is.

    Under both every point arrives once, and a signal ends the agent without a traceback.
    """
    allow_many_files()  # this process holds the writers
    here = {"boot_id": boot_id(), "pid_ns": pid_namespace(), "host": hostname()}
    writers = [kafka_writer(agents.root, settings, **here) for _ in range(WRITERS)]
    logs = [metric_log(writer) for writer in writers]
    chance = random.Random(seed)
    agent = agents.agent(settings, idle_s=END_S, files=files)
    for number in range(ROUNDS):
        for log in chance.sample(logs, WRITERS):
            log.log({"a": float(number)}, number)
        least = WRITERS * (number + 1)
        wait_until(lambda: agents.state().delivered >= least, END_S)  # noqa: B023
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(END_S) == 0
    assert "Traceback" not in agents.log_text()
    assert ("raise `ulimit -n`" in agents.log_text()) == (files[1] < WRITERS)
    for writer in writers:
        writer.append_json("run", {"event": "finished", "status": "finished"})
        writer.close()
    assert agents.agent(settings, files=files).wait(END_S) == 0, agents.log_text()
    points = points_of(distinct_batches(read_topic(settings, "metric")))
    assert len(points) == len(set(points)) == WRITERS * ROUNDS
    assert list_folders(agents.root) == []
