"""`runwire migrate` on a real cluster: creates, grows, compares, never takes away."""

from __future__ import annotations

import json
import os
import shlex
import time
from dataclasses import replace
from typing import Any
from urllib.request import Request, urlopen

import pytest
from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from runwire import cli
from runwire_consumers.core.dead_letters import letter_of
from runwire_consumers.core.errors import Fatal
from runwire_consumers.kafka import admin as kafka_admin
from runwire_consumers.kafka import topics
from runwire_consumers.kafka.admin import KafkaAdmin
from runwire_consumers.kafka.dead_letters import KafkaDeadLetters
from runwire_consumers.stack.kafka_checkup import kafka_findings
from runwire_disk.survey import OK, WARN
from runwire_schemas import codec
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.registry import Registry as RegistryClient
from runwire_schemas.registry import RegistryRefused
from runwire_schemas.topics import TOPICS, topic_name
from support.builders import AT_NS, bad_record
from support.servers import Cluster as Brokers
from support.servers import Registry

pytestmark = pytest.mark.usefixtures("_named")


@pytest.fixture
def _named(monkeypatch: pytest.MonkeyPatch, kafka: Brokers, topic_prefix: str) -> None:
    monkeypatch.setenv("RUNWIRE_KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    monkeypatch.setenv("RUNWIRE_KAFKA_TOPIC_PREFIX", topic_prefix)


@pytest.fixture
def admin(kafka: Brokers) -> AdminClient:
    return AdminClient(kafka.settings.client_config())


def configuration(admin: AdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    (future,) = admin.describe_configs([resource]).values()
    return {name: str(entry.value) for name, entry in future.result(timeout=10).items()}


def settles(admin: AdminClient, topic: str, name: str, value: str) -> bool:
    """Whether the brokers come to say so: each learns a change at its own pace."""
    deadline = time.monotonic() + 10
    while configuration(admin, topic)[name] != value and time.monotonic() < deadline:
        time.sleep(0.05)
    return configuration(admin, topic)[name] == value


def partitions(admin: AdminClient, topic: str) -> int:
    (future,) = admin.describe_topics(TopicCollection([topic])).values()
    return len(future.result(timeout=10).partitions)


def make(admin: AdminClient, topic: str, count: int, config: dict[str, str]) -> None:
    new = NewTopic(topic, num_partitions=count, replication_factor=1, config=config)
    admin.create_topics([new])[topic].result(timeout=10)


def test_migrate_creates_topics_with_partitions_and_configuration(
    admin: AdminClient, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The topics become those of the table; only Kafka is configured, so only Kafka is migrated."""
    assert cli.main(["migrate"]) == 0
    printed = capsys.readouterr()
    assert "ClickHouse is skipped" in printed.err
    names = [topic_name(kind, topic_prefix) for kind in TOPICS]
    assert printed.out.splitlines() == [f"created topic {name}" for name in names]
    for name, topic in zip(names, TOPICS.values(), strict=True):
        assert partitions(admin, name) == topic.partitions
        wanted = topic.configuration(brokers=1)
        assert {key: configuration(admin, name)[key] for key in wanted} == wanted
    assert cli.main(["migrate", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)["kafka"]
    assert not any((done["created"], done["grown"], done["fixed"], done["differing"]))


def test_migrate_changes_settings_chosen_by_hand_only_with_fix(
    admin: AdminClient, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too few partitions grow, more stay; another retention is shown, and set only by --fix."""
    metric, run = topic_name("metric", topic_prefix), topic_name("run", topic_prefix)
    make(admin, metric, 1, {"retention.ms": "1000"})
    make(admin, run, 5, TOPICS["run"].configuration(brokers=1))
    assert cli.main(["migrate"]) == 0
    printed = capsys.readouterr()
    assert f"topic {metric}: 1 to 3 partitions" in printed.out
    assert f"topic {metric} has retention.ms=1000, ours is 604800000: --fix sets it" in printed.err
    assert run not in printed.out + printed.err
    assert (partitions(admin, metric), partitions(admin, run)) == (3, 5)
    assert configuration(admin, metric)["retention.ms"] == "1000"
    assert cli.main(["migrate", "--fix"]) == 0
    assert f"topic {metric}: retention.ms set from 1000 to 604800000" in capsys.readouterr().out
    assert settles(admin, metric, "retention.ms", "604800000")
    assert cli.main(["migrate", "--fix"]) == 0
    assert "is up to date" in capsys.readouterr().err


def test_doctor_names_topics_with_less_than_ours(
    kafka: Brokers, admin: AdminClient, topic_prefix: str
) -> None:
    """Limits and retention below ours are found; more than ours is fine."""
    letters, run = topic_name("deadletter", topic_prefix), topic_name("run", topic_prefix)
    make(admin, letters, 1, {"max.message.bytes": "1048588"})
    more = {"retention.ms": "-1", "max.message.bytes": "100000000"}
    make(admin, run, 5, {**TOPICS["run"].configuration(brokers=1), **more})
    assert cli.main(["migrate"]) == 0  # the other topics
    found = {
        finding.found.partition(":")[0]: finding
        for finding in kafka_findings(os.environ)
        if finding.check == "topic settings"
    }
    assert list(found) == [letters]
    assert found[letters].level == WARN
    assert "max.message.bytes is 1048588, ours is " in found[letters].found
    assert "only the beginning of a larger bad record is kept" in found[letters].advice
    assert cli.main(["migrate", "--fix"]) == 0
    assert settles(admin, letters, "max.message.bytes", str(32 * 1024 * 1024 + 64 * 1024))
    assert (configuration(admin, run)["retention.ms"], partitions(admin, letters)) == ("-1", 3)
    assert [one.level for one in kafka_findings(os.environ)] == [OK, OK, OK, OK]
    kept = KafkaDeadLetters(replace(kafka.settings, topic_prefix=topic_prefix))
    kept.put(letter_of(bad_record(0), "bad", at_ns=AT_NS))
    kept.flush()
    kept.close()
    (warning,) = [one for one in kafka_findings(os.environ) if one.level == WARN]
    assert (warning.check, warning.found) == ("dead letters in Kafka", "1")


def test_migrate_print_shows_commands_that_make_the_same_topics(
    kafka: Brokers, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is created; there is one command per topic and right, in the words of the table."""
    assert cli.main(["migrate", "--print", "kafka", "--brokers", "1"]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    made: dict[str, list[str]] = {}
    for words in lines:
        if words[0] == "kafka-topics.sh":
            made[words[words.index("--topic") + 1]] = words
    assert set(made) == {topic_name(kind, topic_prefix) for kind in TOPICS}
    words = made[topic_name("metric", topic_prefix)]
    assert words[:5] == [*words[:1], "--bootstrap-server", kafka.bootstrap, *words[3:5]]
    assert words[words.index("--partitions") + 1] == "3"
    assert words[words.index("--replication-factor") + 1] == "1"
    wanted = TOPICS["metric"].configuration(brokers=1)
    assert {w for w in words if "=" in w} == {f"{key}={value}" for key, value in wanted.items()}
    assert sum(words[0] == "kafka-acls.sh" for words in lines) == 10
    assert cli.main(["migrate", "--print"]) == 0
    everything = capsys.readouterr().out
    assert "CREATE TABLE" in everything
    assert "--replication-factor 3" in everything
    found = topics.apply(KafkaAdmin(kafka.settings), prefix=topic_prefix)
    assert len(found.created) == len(TOPICS), "printing created nothing"


def test_migrate_keeps_three_copies_on_three_brokers(kafka3: Brokers, topic_prefix: str) -> None:
    """Writing needs two of them in sync; missing copies are reported, not created."""
    admin, brokers = AdminClient(kafka3.settings.client_config()), KafkaAdmin(kafka3.settings)
    make(admin, topic_name("run", topic_prefix), 3, {"min.insync.replicas": "2"})
    outcome = topics.apply(brokers, prefix=topic_prefix, fix=True)
    (left,) = outcome.differing
    assert (left.topic, left.name) == (topic_name("run", topic_prefix), "replication.factor")
    assert (left.found, left.wanted, left.can_fix) == ("1", "3", False)
    # Two in-sync replicas of a single copy would refuse every write.
    assert settles(admin, left.topic, "min.insync.replicas", "1")
    metric = topic_name("metric", topic_prefix)
    (future,) = admin.describe_topics(TopicCollection([metric])).values()
    assert {len(p.replicas) for p in future.result(timeout=10).partitions} == {3}
    assert configuration(admin, metric)["min.insync.replicas"] == "2"


def test_cluster_raises_fatal_with_the_address_when_no_broker_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sentence names the address and the protocol that was tried."""
    monkeypatch.setattr(kafka_admin, "ADMIN_REQUEST_S", 1.0)
    with pytest.raises(Fatal, match=r"no Kafka broker answers at 127.0.0.1:1: .*PLAINTEXT"):
        KafkaAdmin(KafkaSettings(bootstrap_servers="127.0.0.1:1")).brokers()


def test_migrate_continues_when_one_server_is_unreachable(
    admin: AdminClient, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kafka is migrated, ClickHouse and the registry are reported, and the exit status tells."""
    away = ["--url", "http://127.0.0.1:1/x", "--registry", "http://127.0.0.1:1"]
    assert cli.main(["migrate", *away]) == 1
    said = capsys.readouterr().err
    assert "ClickHouse at http://127.0.0.1:1/x does not answer" in said
    assert "schema registry at http://127.0.0.1:1 does not answer" in said
    assert "runs with its bundled schema ids" in said
    assert partitions(admin, topic_name("metric", topic_prefix)) == 3


def test_migrate_names_the_settings_when_nothing_is_configured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without any destination, and for --acls without a user, the command names what to set."""
    monkeypatch.delenv("RUNWIRE_KAFKA_BOOTSTRAP_SERVERS")
    assert cli.main(["migrate"]) == 1
    assert "nothing to migrate: no ClickHouse, Kafka or object store" in capsys.readouterr().err
    assert cli.main(["migrate", "--acls"]) == 2
    assert "--acls needs --agent-user" in capsys.readouterr().err


def test_migrate_registers_schemas_once_with_our_compatibility_rule(
    registry: Registry, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Producers find the ids, and a schema that readers could not read is refused."""
    client = RegistryClient(registry.url, prefix=topic_prefix)
    assert cli.main(["migrate", "--registry", registry.url, "--json"]) == 0
    subjects: dict[str, Any] = json.loads(capsys.readouterr().out)["registry"]
    assert {client.subject(kind): number for kind, number in client.ids().items()} == subjects
    assert cli.main(["migrate", "--registry", registry.url]) == 0
    assert "registered" not in capsys.readouterr().out
    assert client.register("metric").compatibility == "BACKWARD_TRANSITIVE"
    schema = json.loads(codec.schema_json("metric"))
    schema["fields"].append({"name": "unit", "type": "string"})
    reasons = client.incompatibilities("metric", json.dumps(schema))
    assert reasons  # one for each version that is registered
    assert all("unit" in reason for reason in reasons)
    schema["fields"][-1]["default"] = ""
    assert client.incompatibilities("metric", json.dumps(schema)) == []
    assert client.incompatibilities("metric", codec.schema_json("metric")) == []


def test_migrate_refuses_a_subject_with_a_foreign_schema(
    registry: Registry, topic_prefix: str
) -> None:
    """Another schema under our subject's name is refused, with the way out."""
    client = RegistryClient(registry.url, prefix=topic_prefix)
    other = {"type": "record", "name": "Other", "fields": [{"name": "x", "type": "string"}]}
    subject = f"{registry.url}/subjects/{client.subject('metric')}/versions"
    body = json.dumps({"schema": json.dumps(other)}).encode()
    urlopen(Request(subject, body, {"Content-Type": "application/json"})).close()
    with pytest.raises(RegistryRefused, match=r"incompatible.*RUNWIRE_KAFKA_TOPIC_PREFIX"):
        client.register("metric")
