"""What every server has in common: parts to fetch, ports, a configuration, processes to start."""

from __future__ import annotations

import abc
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import Any, ClassVar

from runwire_servers.errors import ServersError
from runwire_servers.places import Places

# Below the range that Linux takes ports for outgoing connections from.
PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True)
class Launch:
    """One process: how to start it, and the line of its log or the url that says it is ready."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_line: str = ""
    ready_url: str = ""


class Server(abc.ABC):
    """One kind of server. `home` is the folder where it keeps what survives a restart."""

    name: str
    version: str
    labels: Sequence[str] = ("1",)  # one per process
    stop_within_s: ClassVar[float] = 10.0
    start_within_s: ClassVar[float] = 90.0  # seconds where idle; a busy machine takes longer

    @abc.abstractmethod
    def fetch(self, places: Places) -> None:
        """Fetch or build what is missing. Raises: ServersError. Blocks: for minutes at first."""

    @abc.abstractmethod
    def port_names(self) -> Sequence[str]:
        """Names of the ports it listens on."""

    @abc.abstractmethod
    def address(self, ports: Mapping[str, int]) -> str:
        """Where clients connect."""

    @abc.abstractmethod
    def prepare(self, places: Places, ports: Mapping[str, int]) -> dict[str, Launch]:
        """Write the configuration; how to start each process. Raises: ServersError."""

    def facts(self, home: Path) -> dict[str, Any]:
        """What clients need beside the address, once prepared."""
        del home
        return {}


def choose_ports(names: Sequence[str], wanted: Mapping[str, int]) -> dict[str, int]:
    """The wanted ports where all are free, so that clients find a restarted server; else others."""
    if set(wanted) == set(names) and all(_is_free(port) for port in wanted.values()):
        return dict(wanted)
    free: list[int] = []
    for port in SystemRandom().sample(PORTS, 500):
        if len(free) == len(names):
            break
        if _is_free(port):
            free.append(port)
    if len(free) < len(names):
        raise ServersError(f"no {len(names)} free ports in {PORTS.start} to {PORTS.stop}")
    return dict(zip(names, free, strict=True))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
