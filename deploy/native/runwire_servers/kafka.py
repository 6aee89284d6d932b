"""Apache Kafka: one broker, three brokers, or one with encryption, passwords and ACLs."""

from __future__ import annotations

import base64
import os
import shlex
import shutil
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from runwire_servers import tools
from runwire_servers.errors import ServersError
from runwire_servers.places import NATIVE, Places, locked
from runwire_servers.private_files import write_private
from runwire_servers.server import Launch, Server

VERSION = "4.3.1"
JARS_VARIABLE = "RUNWIRE_SERVERS_KAFKA_LIBS"
POM = NATIVE / "pom.xml"
# Maven's own default version of the plugin is from 2011 on Debian.
COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
READY_LINE = "Kafka Server started"
# Compiling less is what makes a broker of a test start in two seconds.
JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")

# Small, fast to start and to notice a dead neighbour; production has other figures.
SMALL = {
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.num.partitions": 4,
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000,
    "group.consumer.min.session.timeout.ms": 1000,
    "group.consumer.min.heartbeat.interval.ms": 200,
    "group.consumer.session.timeout.ms": 6000,
    "group.consumer.heartbeat.interval.ms": 1000,
    "broker.heartbeat.interval.ms": 500,
    "log.cleaner.dedupe.buffer.size": 4194304,
    "log.segment.delete.delay.ms": 1000,
    "num.network.threads": 1,
    "num.io.threads": 2,
    "num.partitions": 1,
    "auto.create.topics.enable": "false",
}


class Kafka(Server):
    """Brokers that are controllers as well, on loopback, without encryption."""

    version = VERSION

    def __init__(self, name: str, nodes: int, heap_mb: int) -> None:
        self.name = name
        self.labels = [str(number) for number in range(1, nodes + 1)]
        self._heap_mb = heap_mb

    def fetch(self, places: Places) -> None:
        """Have Java and the jars. Raises: ServersError."""
        tools.find_java()
        find_jars(places)

    def port_names(self) -> Sequence[str]:
        """Two for each node."""
        return [f"{role}-{label}" for label in self.labels for role in ("client", "controller")]

    def address(self, ports: Mapping[str, int]) -> str:
        """The bootstrap servers."""
        return ",".join(f"127.0.0.1:{ports[f'client-{label}']}" for label in self.labels)

    def configure(self, home: Path, ports: Mapping[str, int]) -> None:
        """Write what the nodes read: nothing here needs Java."""
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        for label in self.labels:
            properties = self.properties(label, ports, home)
            lines = [f"{key}={value}\n" for key, value in properties.items()]
            write_private(home / f"{label}.properties", "".join(lines))

    def prepare(self, places: Places, ports: Mapping[str, int]) -> dict[str, Launch]:
        """Configure, and format the folders that are new."""
        home = places.data(self.name)
        self.configure(home, ports)
        java = [tools.find_java(), "-cp", f"{find_jars(places)}/*"]
        with ThreadPoolExecutor(len(self.labels)) as pool:
            list(pool.map(lambda label: self._format(java, home, label), self.labels))
        return {label: self._launch(java, home, label) for label in self.labels}

    def _format(self, java: Sequence[str], home: Path, label: str) -> None:
        if (home / label / "meta.properties").exists():
            return
        command = [java[0], *JVM, *java[1:], "kafka.tools.StorageTool"]
        what = f"formatting node {label} of {self.name}"
        tools.run_tool([*command, *self.format_words(home, label)], what, folder=home)

    def format_words(self, home: Path, label: str) -> list[str]:
        """The words for Kafka's storage tool; a folder that is formatted already stays as it is."""
        words = ["format", "-c", f"{label}.properties", "-t", _cluster_id(home)]
        return [*words, "--ignore-formatted"]

    def _launch(self, java: Sequence[str], home: Path, label: str) -> Launch:
        heap = shlex.split(os.environ.get("KAFKA_HEAP_OPTS", ""))
        heap = heap or ["-Xms64m", f"-Xmx{self._heap_mb}m"]
        logging = f"-Dlog4j2.configurationFile={NATIVE / 'log4j2.properties'}"
        command = [java[0], *heap, *JVM, logging, *java[1:], "kafka.Kafka", f"{label}.properties"]
        return Launch(command, ready_line=READY_LINE)

    def properties(self, label: str, ports: Mapping[str, int], home: Path) -> dict[str, Any]:
        """The configuration of one node."""
        voters = [f"{n}@127.0.0.1:{ports[f'controller-{n}']}" for n in self.labels]
        copies = min(3, len(self.labels))
        listeners = (
            f"PLAINTEXT://127.0.0.1:{ports[f'client-{label}']},"
            f"CONTROLLER://127.0.0.1:{ports[f'controller-{label}']}"
        )
        return {
            "process.roles": "broker,controller",
            "node.id": label,
            # Static voters: the only kind whose addresses may change between two starts.
            "controller.quorum.voters": ",".join(voters),
            "listeners": listeners,
            "advertised.listeners": listeners,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": home / label,
            "default.replication.factor": copies,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": max(1, copies - 1),
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": max(1, copies - 1),
            # After a kill -9 a lone broker is its own neighbour: it must first be taken for dead.
            "broker.session.timeout.ms": 2000 if copies == 1 else 4000,
            **SMALL,
        }


def find_jars(places: Places) -> Path:
    """The folder of the jars: the one named, or fetched once. Raises: ServersError."""
    named = os.environ.get(JARS_VARIABLE)
    if named:
        if not list(Path(named).glob("kafka_2.13-*.jar")):
            raise ServersError(
                f"{JARS_VARIABLE}={named} holds no kafka_2.13-….jar: name the `libs` folder of an "
                "unpacked Kafka, or unset it"
            )
        return Path(named).absolute()
    folder = places.root / f"kafka-{VERSION}"
    with locked(places.root / "kafka.lock"):
        kept = folder / "pom.xml"
        if not kept.exists() or kept.read_bytes() != POM.read_bytes():
            _fetch_jars(folder)
    return folder


def _fetch_jars(folder: Path) -> None:
    maven = tools.find_tool(
        "mvn",
        "it fetches Kafka's jars. Install Maven (Debian, Ubuntu: sudo apt install maven), or "
        f"unpack a Kafka {VERSION} and set {JARS_VARIABLE} to its `libs` folder",
    )
    tools.tell(f"fetching Kafka {VERSION}: 44 MB, once")
    shutil.rmtree(folder, ignore_errors=True)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    command = [maven, "-B", "-q", "-f", str(POM), COPY_JARS, "-DincludeScope=runtime"]
    tools.run_tool(
        [*command, f"-DoutputDirectory={part}"], "fetching the jars of Kafka", folder=folder.parent
    )
    shutil.copyfile(POM, part / "pom.xml")
    part.replace(folder)


def _cluster_id(home: Path) -> str:
    """Kafka's own form; the first byte keeps it from starting with a dash, like an option."""
    file = home / "cluster-id"
    with locked(home / "cluster-id.lock"):  # nodes are formatted at the same time
        if not file.exists():
            raw = b"\x52" + uuid.uuid4().bytes[1:]
            file.write_text(base64.urlsafe_b64encode(raw).rstrip(b"=").decode())
        return file.read_text()
