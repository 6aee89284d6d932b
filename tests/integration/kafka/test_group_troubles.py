"""Groups, logs and clusters that are not as they should be, as a worker takes them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from runwire_consumers.core.clock import Deadline, SystemClock
from runwire_consumers.core.errors import Fatal, Retryable
from runwire_consumers.core.source import Record, Span
from runwire_consumers.kafka.source import TOPICS_CHECK_S, KafkaSource
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import topic_name
from support.builders import record, run_event
from support.faults import wait_for
from support.native import NativeServer
from support.servers import Cluster
from support.topics import group, make_topics, send

PROTOCOLS = ("classic", "consumer")
EVENTS = [record(run_event(seq=seq), seq) for seq in range(12)]
# A member of a group until it is killed; it says when it has partitions.
MEMBER = """
import sys
from runwire_consumers.kafka.group_settings import GroupSettings
from runwire_consumers.kafka.source import KafkaSource
from runwire_schemas.connections.kafka import KafkaSettings
servers, prefix, name, protocol = sys.argv[1:]
kafka = KafkaSettings(bootstrap_servers=servers, topic_prefix=prefix)
settings = GroupSettings(
    name=name, kinds=("run",), protocol=protocol, instance_id="one", session_timeout_s=6.0
)
source = KafkaSource(kafka, settings)
while not source.assigned:
    source.poll(0.2)
print("assigned", flush=True)
while True:
    source.poll(0.2)
"""


class HastyClock(SystemClock):
    """A clock at which every check of the source is due at every poll."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def monotonic_s(self) -> float:
        """Return seconds that run ahead by a check's pace at every look."""
        self._ahead_s += TOPICS_CHECK_S
        return super().monotonic_s() + self._ahead_s


@pytest.fixture
def sources() -> Iterator[Callable[[KafkaSource], KafkaSource]]:
    """Closes the sources of a test."""
    with ExitStack() as stack:

        def keep(source: KafkaSource) -> KafkaSource:
            stack.callback(source.close, Deadline(5.0))
            return source

        yield keep


Keep = Callable[[KafkaSource], KafkaSource]


def read(source: KafkaSource, wanted: int, *, reasons: list[str] | None = None) -> list[Record]:
    """Poll until N records have come; sentences of a source that has to wait are kept."""
    found: list[Record] = []

    def is_all() -> bool:
        try:
            found.extend(source.poll(0.2))
        except Retryable as error:
            if reasons is not None:
                reasons.append(error.reason)
        return len(found) >= wanted

    wait_for(f"{wanted} records", is_all)
    return found


@contextlib.contextmanager
def member(kafka: KafkaSettings, name: str, protocol: str) -> Iterator[subprocess.Popen[str]]:
    """A static member of a group in a process of its own, with partitions."""
    words = [kafka.bootstrap_servers, kafka.topic_prefix, name, protocol]
    process = subprocess.Popen(
        [sys.executable, "-c", MEMBER, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "assigned\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_killed_static_member_of_the_new_protocol_is_waited_for(
    kafka: Cluster, topic_prefix: str, sources: Keep
) -> None:
    """Its successor is refused until the session ends, says so, and then reads everything."""
    settings = replace(kafka.settings, topic_prefix=topic_prefix)
    make_topics(settings, topic_prefix, ["run"])
    send(settings, topic_name("run", topic_prefix), EVENTS)
    chosen = replace(group(topic_prefix, ["run"], protocol="consumer"), instance_id="one")
    with member(settings, chosen.name, "consumer") as first:
        first.kill()
        first.wait()
        reasons: list[str] = []
        read(sources(KafkaSource(settings, chosen)), len(EVENTS), reasons=reasons)
    assert any("still counts an earlier worker with this" in reason for reason in reasons)


def test_second_worker_of_one_instance_id_ends_the_first_with_a_sentence(
    kafka: Cluster, topic_prefix: str, sources: Keep
) -> None:
    """The one that lost its place ends and names the setting, instead of reading nothing."""
    settings = replace(kafka.settings, topic_prefix=topic_prefix)
    make_topics(settings, topic_prefix, ["run"])
    send(settings, topic_name("run", topic_prefix), EVENTS)
    chosen = replace(group(topic_prefix, ["run"]), instance_id="one")
    with member(settings, chosen.name, "classic") as first:
        second = sources(KafkaSource(settings, chosen))
        read(second, len(EVENTS))

        def has_ended() -> bool:
            second.poll(0.1)
            return first.poll() is not None

        wait_for("the first to end", has_ended)
        assert "two run with the same RUNWIRE_WORKER_GROUP_INSTANCE_ID" in first.communicate()[1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_group_of_the_other_kind_of_worker_is_refused(
    kafka: Cluster, topic_prefix: str, sources: Keep, protocol: str
) -> None:
    """Each artifact would reach one of both only; what a worker has committed gives it away."""
    settings = replace(kafka.settings, topic_prefix=topic_prefix)
    make_topics(settings, topic_prefix, ["run", "artifact", "chunk"])
    send(settings, topic_name("run", topic_prefix), EVENTS)
    mine = group(topic_prefix, ["run", "artifact"], protocol=protocol)
    first = sources(KafkaSource(settings, mine))
    found = read(first, len(EVENTS))
    first.commit({found[-1].partition: Span(found[-1].offset, found[-1].offset)})
    other = replace(mine, kinds=("chunk", "artifact"))
    with pytest.raises(Fatal, match="RUNWIRE_WORKER_GROUP and RUNWIRE_WORKER_OBJECTS_GROUP"):
        read(sources(KafkaSource(settings, other)), 1)


def test_partitions_added_to_a_topic_are_read_within_seconds(
    kafka: Cluster, topic_prefix: str, sources: Keep
) -> None:
    """A running worker takes them over without a restart."""
    settings = replace(kafka.settings, topic_prefix=topic_prefix)
    topic = topic_name("run", topic_prefix)
    make_topics(settings, topic_prefix, ["run"])
    source = sources(KafkaSource(settings, group(topic_prefix, ["run"])))
    send(settings, topic, EVENTS, partition=0)
    read(source, len(EVENTS))
    admin = AdminClient(settings.client_config())
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(timeout=30)
    wait_for("the partition", lambda: source.poll(0.2) == [] and f"{topic}/2" in source.assigned)
    send(settings, topic, EVENTS, partition=2)
    assert len(read(source, len(EVENTS))) == len(EVENTS)


def test_records_behind_an_open_transaction_are_said_and_read_after_it(
    kafka: Cluster, topic_prefix: str, sources: Keep, caplog: pytest.LogCaptureFixture
) -> None:
    """A foreign program has left a transaction open: the worker says how many records wait."""
    settings = replace(kafka.settings, topic_prefix=topic_prefix)
    topic = topic_name("run", topic_prefix)
    make_topics(settings, topic_prefix, ["run"])
    foreign = Producer({**settings.client_config(), "transactional.id": topic, "log_level": 0})
    foreign.init_transactions(30)
    foreign.begin_transaction()
    foreign.produce(topic, b"foreign", partition=0)
    foreign.flush(30)
    send(settings, topic, EVENTS, partition=0)
    chosen = group(topic_prefix, ["run"])
    source = sources(KafkaSource(settings, chosen, clock=HastyClock()))

    def is_said() -> bool:
        assert source.poll(0.05) == []
        return "wait behind a transaction" in caplog.text

    wait_for("the sentence", is_said)
    assert f"{topic}/0: {len(EVENTS) + 1} records from offset 0 on wait" in caplog.text
    foreign.abort_transaction(30)
    assert len(read(source, len(EVENTS))) == len(EVENTS)


def flip_bit(cluster: Cluster, topic: str, needle: bytes) -> None:
    """Change one bit of a record on the disk of the broker, which is stopped for it."""
    if not isinstance(cluster.server, NativeServer):
        pytest.skip("only a server of ours shows its disk")
    home = Path(cluster.server.record["logs"]["1"]).parents[1]
    cluster.stop()
    (segment,) = home.rglob(f"{topic}-0/*.log")
    content = bytearray(segment.read_bytes())
    content[content.index(needle)] ^= 1
    segment.write_bytes(content)
    cluster.start()


@pytest.mark.parametrize("size", [1, 5])
def test_batch_with_a_flipped_bit_becomes_one_damaged_record(
    kafka: Cluster, topic_prefix: str, sources: Keep, size: int
) -> None:
    """Neither a wrong number nor a loop: its range and points are set aside, the rest is read."""
    settings = replace(kafka.settings, topic_prefix=topic_prefix)
    topic = topic_name("run", topic_prefix)
    make_topics(settings, topic_prefix, ["run"], partitions=1)
    batches = [[record(run_event(seq=9), 0, points=7)] * n for n in (3, size, 4)]
    marked = [replace(one, key=b"needle") for one in batches[1]]
    for batch in (batches[0], marked, batches[2]):
        send(settings, topic, batch)
    flip_bit(kafka, topic, b"needle")
    chosen = group(topic_prefix, ["run"])
    source = sources(KafkaSource(settings, chosen))
    found = read(source, 8)
    spans = [(one.offset, one.last_offset, one.points) for one in found]
    good = [(n, n, 7) for n in (*range(3), *range(3 + size, 7 + size))]
    assert spans == [*good[:3], (3, 2 + size, 7 * size), *good[3:]]
    assert [bool(one.damage) for one in found] == [False] * 3 + [True] + [False] * 4
    assert "fails its checksum" in found[3].damage
    # The intent that ends with it is rebuilt with the same range by a successor.
    name = found[3].partition
    source.intend([{name: Span(0, 2 + size)}])
    source.close(Deadline(5.0))
    heir = sources(KafkaSource(settings, chosen))
    pending = []

    def is_pending() -> bool:
        heir.poll(0.2)
        pending.extend(heir.pending())
        return bool(pending)

    wait_for("the intent", is_pending)
    again = [(one.offset, one.last_offset) for one in pending[0].records]
    assert again == [(0, 0), (1, 1), (2, 2), (3, 2 + size)]
    heir.commit({name: Span(0, 2 + size)})
    assert [one.offset for one in read(heir, 4)] == list(range(3 + size, 7 + size))
    place = TopicPartition(topic, 0)
    watcher = Consumer({**settings.client_config(), "group.id": chosen.name, "log_level": 0})
    assert watcher.committed([place], timeout=30)[0].offset == 3 + size
    watcher.close()
