"""Lifecycle of the servers of one instance: build, start, stop, remove."""

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

from runwire_servers import ServersError, processes, state
from runwire_servers.catalog import find_server
from runwire_servers.places import Places, find_places, locked
from runwire_servers.server import Launch, Server, choose_ports
from runwire_servers.state import Record
from runwire_servers.tools import last_lines


def build(places: Places, names: Sequence[str]) -> None:
    """Fetch and build the servers. Raises: ServersError. Blocks: minutes, the first time."""
    places.make()
    for server in [find_server(name) for name in names]:
        server.fetch(places)


def start(places: Places, name: str, owner: int | None = None) -> Record:
    """Start the missing processes of a server and wait until all are ready.

    Raises: ServersError, after stopping the processes that this call started.
    Blocks: seconds; minutes if something must be fetched or built.
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
    """A process that is not ready yet; its part of the log begins at `offset`."""

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
        state.save(places, known)  # at once, so that no process is lost if this one is killed
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
            logged = file.read().decode(errors="replace")
        if status is not None:
            raise ServersError(
                f"{server.name} ended with status {status} while it started; "
                f"the end of {one.log}:\n" + last_lines(logged)
            )
        url = one.launch.ready_url
        if one.launch.ready_line in logged and (not url or answers(url)):
            return
        if time.monotonic() > until:
            raise ServersError(
                f"{server.name} was not ready after {server.start_within_s:.0f} s; "
                f"the end of {one.log}:\n" + last_lines(logged)
            )
        time.sleep(processes.POLL_S)


def answers(url: str) -> bool:
    """Return whether the URL answers without a server error; proxies are not used."""
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
    """Stop a server or one of its processes; return a line for each stopped process.

    Raises: ServersError if the server has no such process.
    Blocks: up to the server's deadline.
    """
    server = find_server(name)
    if label and label not in server.labels:
        raise ServersError(
            f"{name} has no process {label}: choose among {', '.join(server.labels)}"
        )
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
    """Stop all servers of an instance and delete their data, logs and state."""
    for name in state.load(places).servers:
        stop(places, name, kill=True)  # their data is deleted: an orderly stop has no use
    for folder in (places.home / "data", places.home / "logs"):
        shutil.rmtree(folder, ignore_errors=True)
    places.state.unlink(missing_ok=True)
    if places.instance:
        shutil.rmtree(places.home, ignore_errors=True)


def sweep(root: Path) -> list[str]:
    """Remove the instances whose owner has ended; return their names."""
    gone = []
    for folder in sorted(root.glob("instances/*")):
        places = find_places(folder.name)
        owner = state.load(places).owner
        if owner is not None and not owner.alive():
            remove(places)
            gone.append(folder.name)
    return gone
