"""Catalog of all servers by name."""

from __future__ import annotations

from runwire_servers import ServersError
from runwire_servers.kafka import Kafka
from runwire_servers.kafka_secure import SecureKafka
from runwire_servers.objects import Minio, Versitygw
from runwire_servers.registry import Registry
from runwire_servers.server import Server

SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        Kafka("kafka", nodes=1, heap_mb=384),
        Kafka("kafka3", nodes=3, heap_mb=256),
        SecureKafka("kafka-secure", nodes=1, heap_mb=384),
        Registry(),
        Versitygw(),
        Minio(),
    )
}
DEFAULT = ("kafka", "registry", "versitygw")


def find_server(name: str) -> Server:
    """Return a server. Raises: ServersError with the names that exist."""
    if name not in SERVERS:
        raise ServersError(f"no server is called {name!r}: choose among {', '.join(SERVERS)}")
    return SERVERS[name]
