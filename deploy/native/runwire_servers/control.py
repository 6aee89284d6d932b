"""Start, stop and tell the state of the servers of one instance."""

from __future__ import annotations

import datetime
import http.client
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from runwire_servers import processes, state
from runwire_servers.catalog import find_server
from runwire_servers.errors import ServersError
from runwire_servers.places import Places, find_places, locked
from runwire_servers.server import Launch, Server, choose_ports
from runwire_servers.state import Record
from runwire_servers.tools import last_lines


def build(places: Places, names: Sequence[str]) -> None:
    """Fetch and build what the servers need. Raises: ServersError. Blocks: minutes at first."""
    places.make()
    for server in [find_server(name) for name in names]:
        server.fetch(places)


def start(places: Places, name: str, owner: int | None = None) -> Record:
    """Start the processes of a server that do not run, and wait until all are ready.

    Raises: ServersError; what this call had started is stopped again.
    Blocks: seconds; minutes where parts must be fetched or built.
    """
    server = find_server(name)
    places.make()
    server.fetch(places)
    with locked(places.home / "lock"):
        known = state.load(places)
        if owner is not None:
            known.owner = processes.this_process(owner)
        record = known.servers.setdefault(name, Record())
        running = record.running()
        if set(running) == set(server.labels):
            return record
        if not running:
            record.ports = choose_ports(server.port_names(), record.ports)
            record.started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        launches = server.prepare(places, record.ports)
        record.version, record.address = server.version, server.address(record.ports)
        record.facts = server.facts(places.data(name))
        _launch(
            places, known, server, {label: launches[label] for label in launches.keys() - running}
        )
        return record


@dataclass(frozen=True, slots=True)
class _Starting:
    """A process that is not ready yet; `offset` is where its part of the log begins."""

    child: subprocess.Popen[bytes]
    launch: Launch
    log: Path
    offset: int


def _launch(
    places: Places, known: state.State, server: Server, launches: dict[str, Launch]
) -> None:
    record = known.servers[server.name]
    starting = []
    for label, launch in sorted(launches.items()):
        log = places.log(server.name, label)
        record.logs[label] = str(log)
        offset = log.stat().st_size if log.exists() else 0
        process, child = processes.start(
            launch.command, log=log, folder=places.data(server.name), extra=launch.environment
        )
        record.processes[label] = process
        state.save(places, known)  # before the next step, so that no process is ever forgotten
        starting.append(_Starting(child, launch, log, offset))
    until = time.monotonic() + server.start_within_s
    try:
        for one in starting:
            _wait_ready(server, one, until)
    except BaseException:
        processes.stop([record.processes[label] for label in launches], server.stop_within_s)
        raise


def _wait_ready(server: Server, one: _Starting, until: float) -> None:
    while True:
        status = one.child.poll()
        with one.log.open("rb") as file:
            file.seek(one.offset)
            said = file.read().decode(errors="replace")
        if status is not None:
            raise ServersError(
                f"{server.name} ended with status {status} while it started; {one.log} says\n"
                + last_lines(said)
            )
        url = one.launch.ready_url
        if one.launch.ready_line in said and (not url or answers(url)):
            return
        if time.monotonic() > until:
            raise ServersError(
                f"{server.name} was not ready after {server.start_within_s:.0f} s; {one.log} says\n"
                + last_lines(said)
            )
        time.sleep(processes.POLL_S)


def answers(url: str) -> bool:
    """Whether anything but a server error comes back; proxies of the environment play no part."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=2)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def stop(places: Places, name: str, *, label: str = "", kill: bool = False) -> list[str]:
    """Stop a server or one process of it; lines that say what was done.

    Blocks: up to the server's deadline.
    """
    server = find_server(name)
    if label and label not in server.labels:
        raise ServersError(f"{name} has no process {label}, only {', '.join(server.labels)}")
    if not places.state.exists():
        return []
    with locked(places.home / "lock"):
        record = state.load(places).servers.get(name, Record())
        chosen = {n: p for n, p in record.running().items() if label in {"", n}}
        if kill:
            killed = processes.kill(list(chosen.values()))
        else:
            killed = processes.stop(list(chosen.values()), server.stop_within_s)
    return [
        f"{name}: pid {p.pid} {'killed' if p in killed else 'stopped'}" for p in chosen.values()
    ]


def remove(places: Places) -> None:
    """Stop all servers of an instance and remove their data, logs and state."""
    for name in state.load(places).servers:
        stop(places, name, kill=True)  # nothing is left to be stopped in order for
    for folder in (places.home / "data", places.home / "logs"):
        shutil.rmtree(folder, ignore_errors=True)
    places.state.unlink(missing_ok=True)
    if places.instance:
        shutil.rmtree(places.home, ignore_errors=True)


def sweep(root: Path) -> list[str]:
    """Remove the instances whose owner is gone; their names."""
    gone = []
    for folder in sorted(root.glob("instances/*")):
        places = find_places(folder.name)
        owner = state.load(places).owner
        if owner is not None and not owner.alive():
            remove(places)
            gone.append(folder.name)
    return gone
