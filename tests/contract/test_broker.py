"""Contract of every broker: order per key, one report per message, refusals by their reason."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from runwire_agent.ship.broker import (
    GIVEN_UP,
    TOO_LARGE,
    UNKNOWN_TOPIC,
    UNREACHABLE,
    Broker,
    Failure,
    MemoryBroker,
    MemoryCluster,
    Message,
)
from runwire_agent.ship.kafka import KafkaBroker
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import topic_name
from support.kafka_log import read_topic
from support.topics import make_topics

PATIENCE_S = 30.0
NOBODY = "127.0.0.1:1"  # a port that nothing listens on


class Rig(ABC):
    """A kind of broker, with the topics of two kinds: `run` and `metric`."""

    broker: Broker

    @abstractmethod
    def away(self) -> Broker:
        """A broker that nobody answers."""

    @abstractmethod
    def limit(self, kind: str, bytes_max: int) -> None: ...

    @abstractmethod
    def stored(self, kind: str) -> list[Message]: ...


class MemoryRig(Rig):
    def __init__(self) -> None:
        self.cluster = MemoryCluster(missing={"log"})
        self.broker = MemoryBroker(self.cluster)

    def away(self) -> Broker:
        return MemoryBroker(MemoryCluster(away=Failure(UNREACHABLE, "nobody answers")))

    def limit(self, kind: str, bytes_max: int) -> None:
        self.cluster.bytes_max = bytes_max

    def stored(self, kind: str) -> list[Message]:
        return self.cluster.topics.get(kind, [])


class KafkaRig(Rig):
    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.settings = KafkaSettings(bootstrap_servers=bootstrap, topic_prefix=prefix)
        make_topics(self.settings, prefix, ["run", "metric"])
        self.broker = KafkaBroker(self.settings)

    def away(self) -> Broker:
        return KafkaBroker(KafkaSettings(bootstrap_servers=NOBODY))

    def limit(self, kind: str, bytes_max: int) -> None:
        name = topic_name(kind, self.settings.topic_prefix)
        entry = ConfigEntry(
            "max.message.bytes", str(bytes_max), incremental_operation=AlterConfigOpType.SET
        )
        resource = ConfigResource("TOPIC", name, incremental_configs=[entry])
        admin = AdminClient(self.settings.client_config())
        for future in admin.incremental_alter_configs([resource]).values():
            future.result()

    def stored(self, kind: str) -> list[Message]:
        return read_topic(self.settings, kind)


@pytest.fixture(params=["memory", "kafka"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    if request.param == "memory":
        made: Rig = MemoryRig()
    else:
        prefix = request.getfixturevalue("topic_prefix")
        made = KafkaRig(request.getfixturevalue("kafka").bootstrap, prefix)
    yield made
    made.broker.close()


class Reports:
    """Collects what a broker reports; `wait` polls until N are there."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.found: list[Failure | None] = []

    def send(self, message: Message) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self.broker.produce(message, self.found.append):
            assert time.monotonic() < deadline
            self.broker.poll(0.05)

    def wait(self, n: int) -> list[Failure | None]:
        deadline = time.monotonic() + PATIENCE_S
        while len(self.found) < n:
            assert time.monotonic() < deadline, f"{len(self.found)} of {n} reports came"
            self.broker.poll(0.05)
        return self.found


def message(number: int, kind: str = "metric", key: bytes = b"w1") -> Message:
    return Message(kind, key, b"value %d" % number, points=number)


def test_broker_keeps_order_key_and_headers_of_messages(rig: Rig) -> None:
    """Messages with one key are stored in the order they were sent, each with its own headers."""
    reports = Reports(rig.broker)
    for number in range(200):
        reports.send(message(number, key=b"w%d" % (number % 2)))
    assert reports.wait(200) == [None] * 200
    assert rig.broker.trouble is None
    stored = rig.stored("metric")
    for key in (b"w0", b"w1"):
        mine = [found.value for found in stored if found.key == key]
        assert mine == [b"value %d" % n for n in range(200) if b"w%d" % (n % 2) == key]
    assert sorted(found.points for found in stored) == list(range(200))
    assert stored[-1].headers == [("points", str(stored[-1].points).encode())]


def test_broker_reports_missing_topic_and_accepts_other_topics(rig: Rig) -> None:
    """A message for a missing topic fails as UNKNOWN_TOPIC; other topics still get theirs."""
    reports = Reports(rig.broker)
    reports.send(message(1, kind="log"))
    (failure,) = reports.wait(1)
    assert failure is not None
    assert failure.kind == UNKNOWN_TOPIC
    reports.send(message(2, kind="run"))
    assert reports.wait(2)[1] is None


def test_broker_refuses_record_above_the_topic_limit(rig: Rig) -> None:
    """A record above the topic's `max.message.bytes` fails as TOO_LARGE and is not stored."""
    rig.limit("metric", 2000)
    reports = Reports(rig.broker)
    noise = bytes(hash((number, "noise")) % 256 for number in range(5000))
    reports.send(Message("metric", b"w1", noise))
    (failure,) = reports.wait(1)
    assert failure is not None
    assert failure.kind == TOO_LARGE
    assert rig.stored("metric") == []


def test_limit_batches_makes_small_records_fit_a_lowered_limit(rig: Rig) -> None:
    """A batch of many records is refused as a whole; after `limit_batches` each record fits."""
    rig.limit("metric", 2000)
    rig.broker.limit_batches(1500)
    rig.broker.reset()
    reports = Reports(rig.broker)
    for number in range(300):
        reports.send(Message("metric", b"w1", bytes(hash((number, n)) % 256 for n in range(500))))
    assert reports.wait(300) == [None] * 300
    assert rig.broker.batch_bytes == 1500


def test_reset_reports_each_message_in_flight_once(rig: Rig) -> None:
    """`reset` reports each message in flight once, as GIVEN_UP, and the broker still works."""
    broker = rig.away()
    reports = Reports(broker)
    for number in range(3):
        reports.send(message(number))
    broker.poll(0.3)
    assert not broker.is_reachable(0.5)
    broker.reset()
    assert [failure and failure.kind for failure in reports.found] == [GIVEN_UP] * 3
    broker.poll(0.3)
    assert len(reports.found) == 3
    assert broker.trouble is not None
    assert broker.trouble.kind == UNREACHABLE
    broker.close()


def test_is_reachable_holds_when_a_broker_answers(rig: Rig) -> None:
    """A broker that answers is reachable, and a message sent afterwards arrives."""
    assert rig.broker.is_reachable(10.0)
    reports = Reports(rig.broker)
    reports.send(message(1))
    assert reports.wait(1) == [None]
