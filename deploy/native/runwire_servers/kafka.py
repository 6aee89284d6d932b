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
from runwire_servers.kafka_runtime import (
    READY_LINE,
    VERSION,
    Runtime,
    find_runtime,
    make_archive,
)
from runwire_servers.places import Places, locked, write_private
from runwire_servers.server import Launch, Server, choose_ports

# For tests: small, fast to start, fast to detect a dead broker. Not for production.
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
    """Brokers that are also controllers, on loopback, without encryption."""

    version = VERSION

    def __init__(self, name: str, nodes: int, heap_mb: int) -> None:
        self.name = name
        self.labels = [str(number) for number in range(1, nodes + 1)]
        self._heap_mb = heap_mb

    def fetch(self, places: Places) -> None:
        """Find Java, fetch the jars, build the class archive. Raises: ServersError."""
        runtime = find_runtime(places)
        if not runtime.archive.exists():
            _warm_up(runtime, places)

    def port_names(self) -> Sequence[str]:
        """Return two names per node."""
        return [f"{role}-{label}" for label in self.labels for role in ("client", "controller")]

    def address(self, ports: Mapping[str, int]) -> str:
        """Return the bootstrap servers."""
        return ",".join(f"127.0.0.1:{ports[f'client-{label}']}" for label in self.labels)

    def configure(self, home: Path, ports: Mapping[str, int]) -> None:
        """Write the configuration files of the nodes, without Java."""
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        for label in self.labels:
            properties = self.properties(label, ports, home)
            lines = [f"{key}={value}\n" for key, value in properties.items()]
            write_private(home / f"{label}.properties", "".join(lines))

    def prepare(self, places: Places, ports: Mapping[str, int]) -> dict[str, Launch]:
        """Write the configuration and format new folders. Raises: ServersError."""
        home = places.data(self.name)
        self.configure(home, ports)
        runtime = find_runtime(places)
        with ThreadPoolExecutor(len(self.labels)) as pool:
            list(pool.map(lambda label: self.format_node(runtime, home, label), self.labels))
        return {label: self._launch(runtime, label) for label in self.labels}

    def format_node(self, runtime: Runtime, home: Path, label: str) -> None:
        """Format the folder of a node if it is new. Raises: ServersError."""
        if (home / label / "meta.properties").exists():
            return
        words = ["kafka.tools.StorageTool", *self.format_words(home, label)]
        what = f"formatting node {label} of {self.name}"
        tools.run_tool(runtime.command(words), what, folder=home)

    def format_words(self, home: Path, label: str) -> list[str]:
        """Return the arguments of Kafka's storage tool, which skips a formatted folder."""
        words = ["format", "-c", f"{label}.properties", "-t", _cluster_id(home)]
        return [*words, "--ignore-formatted"]

    def _launch(self, runtime: Runtime, label: str) -> Launch:
        heap = shlex.split(os.environ.get("KAFKA_HEAP_OPTS", ""))
        heap = heap or ["-Xms64m", f"-Xmx{self._heap_mb}m"]
        return Launch(runtime.broker(f"{label}.properties", heap), ready_line=READY_LINE)

    def properties(self, label: str, ports: Mapping[str, int], home: Path) -> dict[str, Any]:
        """Return the configuration of one node."""
        voters = [f"{n}@127.0.0.1:{ports[f'controller-{n}']}" for n in self.labels]
        copies = min(3, len(self.labels))
        listeners = (
            f"PLAINTEXT://127.0.0.1:{ports[f'client-{label}']},"
            f"CONTROLLER://127.0.0.1:{ports[f'controller-{label}']}"
        )
        return {
            "process.roles": "broker,controller",
            "node.id": label,
            # Static voters, because only their addresses may change between two starts.
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
            # After a kill -9 a single broker can register only once its old session has expired.
            "broker.session.timeout.ms": 2000 if copies == 1 else 4000,
            **SMALL,
        }


def _warm_up(runtime: Runtime, places: Places) -> None:
    home = places.root / "build" / f"kafka-{os.getpid()}"
    kafka = Kafka("kafka", nodes=1, heap_mb=256)
    try:
        kafka.configure(home, choose_ports(kafka.port_names(), {}))
        make_archive(runtime, home, lambda: kafka.format_node(runtime, home, "1"))
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _cluster_id(home: Path) -> str:
    """Return the cluster id in Kafka's format.

    Its first byte is fixed, so that the text never starts with a dash, like an option.
    """
    file = home / "cluster-id"
    with locked(home / "cluster-id.lock"):  # nodes are formatted at the same time
        if not file.exists():
            raw = b"\x52" + uuid.uuid4().bytes[1:]
            file.write_text(base64.urlsafe_b64encode(raw).rstrip(b"=").decode())
        return file.read_text()
