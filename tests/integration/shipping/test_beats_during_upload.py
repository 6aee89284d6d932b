"""Heartbeats and metrics of an agent during a large upload."""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from runwire_agent.watch.duty import HEARTBEAT_INTERVAL_S
from runwire_disk.outbox.request import RequestFile, content_path
from runwire_schemas import codec
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.events import Heartbeat
from runwire_schemas.topics import TOPICS
from support.agents import Agents
from support.kafka_log import read_topic
from support.servers import Cluster
from support.shipping import distinct_batches
from support.topics import make_topics
from support.uploads import folder_of, for_kafka, leave
from support.watched import wait_until

END_S = 120
UPLOAD_S_MAX = 600.0
GIB = 1 << 30
KINDS = [kind for kind, topic in TOPICS.items() if topic.schema is not None]


@pytest.fixture
def settings(kafka: Cluster, topic_prefix: str) -> KafkaSettings:
    make_topics(kafka.settings, topic_prefix, KINDS)
    return replace(kafka.settings, topic_prefix=topic_prefix)


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    made = Agents(tmp_path)
    yield made
    made.close()


def leave_large(root: Path, destination: str) -> Path:
    """A gibibyte that takes no room on the disk; its folder in the outbox."""
    file = RequestFile(path="large.bin", index=0, size=GIB)
    request = leave(root, [], files=(file,), **for_kafka(destination="later"))
    folder = folder_of(root, request)
    with content_path(folder, 0).open("wb") as content:
        content.truncate(GIB)
    replace(request, destination=destination).commit(folder)
    return folder


def test_beats_and_metrics_continue_during_a_large_upload(
    agents: Agents, settings: KafkaSettings
) -> None:
    """Over the whole upload no heartbeat is missing, and points arrive all the time."""
    trainer = agents.trainer(settings, steps=10**9, pause_s=0.002)
    agent = agents.agent(settings, idle_s=1.0)
    wait_until(lambda: agents.state().delivered > 0)
    folder = leave_large(agents.root, settings.destination)
    begin_ns, deadline_s = time.time_ns(), time.monotonic() + UPLOAD_S_MAX
    while folder.exists():
        assert time.monotonic() < deadline_s, agents.log_text()
        assert trainer.poll() is None
        time.sleep(0.1)
    end_ns = time.time_ns()
    trainer.kill()
    trainer.wait()
    assert agent.wait(END_S) == 0, agents.log_text()

    beats = [codec.decode(message.value) for message in read_topic(settings, "heartbeat")]
    at_ns = sorted(e.at_ns for e in beats if isinstance(e, Heartbeat))
    during = [ns for ns in at_ns if begin_ns <= ns <= end_ns]
    expected = (end_ns - begin_ns) / 1e9 / HEARTBEAT_INTERVAL_S
    assert len(during) >= int(expected) - 1
    gaps_s = [(after - before) / 1e9 for before, after in pairwise(at_ns)]
    assert max(gaps_s, default=0.0) < 2 * HEARTBEAT_INTERVAL_S
    # Each batch is what half a second or less had brought: as many as without an upload.
    batches = distinct_batches(read_topic(settings, "metric"))
    told_ms = [batch.call_at_ms[-1] for batch in batches]
    during_upload = [ms for ms in told_ms if begin_ns / 1e6 <= ms <= end_ns / 1e6]
    assert len(during_upload) >= (end_ns - begin_ns) / 1e9 / HEARTBEAT_INTERVAL_S
