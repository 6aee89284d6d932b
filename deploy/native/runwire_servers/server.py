"""Base of all servers: parts to fetch, ports, a configuration, processes to start."""

from __future__ import annotations

import abc
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import Any, ClassVar

from runwire_servers import ServersError
from runwire_servers.places import Places

# Below the range from which Linux takes ports for outgoing connections.
PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one process, and the log line or URL that shows that it is ready."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_line: str = ""
    ready_url: str = ""


class Server(abc.ABC):
    """One kind of server. `home` is its folder, which is kept across restarts."""

    name: str
    version: str
    labels: Sequence[str] = ("1",)  # one per process
    stop_within_s: ClassVar[float] = 10.0
    start_within_s: ClassVar[float] = 90.0  # a few seconds when idle; a busy machine needs longer

    @abc.abstractmethod
    def fetch(self, places: Places) -> None:
        """Fetch or build missing parts. Raises: ServersError. Blocks: minutes, the first time."""

    @abc.abstractmethod
    def port_names(self) -> Sequence[str]:
        """Return the names of the ports that it listens on."""

    @abc.abstractmethod
    def address(self, ports: Mapping[str, int]) -> str:
        """Return the address for clients."""

    @abc.abstractmethod
    def prepare(self, places: Places, ports: Mapping[str, int]) -> dict[str, Launch]:
        """Write the configuration; return how to start each process. Raises: ServersError."""

    def facts(self, home: Path) -> dict[str, Any]:
        """Return what clients need besides the address, after `prepare`."""
        del home
        return {}


def choose_ports(names: Sequence[str], wanted: Mapping[str, int]) -> dict[str, int]:
    """Return the wanted ports if all are free, so that clients find the server again; else others.

    Raises: ServersError if too few ports are free.
    """
    if set(wanted) == set(names) and all(_is_free(port) for port in wanted.values()):
        return dict(wanted)
    free: list[int] = []
    for port in SystemRandom().sample(PORTS, 500):
        if len(free) == len(names):
            break
        if _is_free(port):
            free.append(port)
    if len(free) < len(names):
        raise ServersError(
            f"{len(names)} ports are needed, and too few of {PORTS.start} to {PORTS.stop} are free"
        )
    return dict(zip(names, free, strict=True))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
