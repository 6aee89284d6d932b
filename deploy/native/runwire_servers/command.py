"""Command line of the servers: build, start, stop, status, remove."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

from runwire_servers import ServersError, control, processes, state
from runwire_servers.catalog import DEFAULT, SERVERS
from runwire_servers.places import Places, find_places


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Blocks: until the command has finished."""
    options = _parser().parse_args(argv)
    try:
        places = find_places(options.instance)
        if options.command in {"start", "remove"}:
            control.sweep(places.root)
        return int(options.run(places, options))
    except ServersError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="servers.py", description="real servers without Docker")
    commands = parser.add_subparsers(dest="command", required=True)
    chosen = f"{', '.join(SERVERS)} (default: {' '.join(DEFAULT)})"
    for name, run, what in (
        ("build", _build, "fetch and build the servers, start none"),
        ("start", _start, "start servers and wait until they are ready"),
        ("stop", _stop, "stop servers, or all of them; NAME/2 is the second process of NAME"),
        ("status", _status, "show state, address and pid of each server"),
        ("remove", _remove, "stop all servers and delete their data"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.set_defaults(run=run)
        command.add_argument("--instance", default="", help="name of a separate set of servers")
        if name in {"build", "start", "stop"}:
            command.add_argument("names", nargs="*", metavar="NAME", help=chosen)
        if name in {"start", "status"}:
            command.add_argument(
                "--json", action="store_true", help="for programs; includes passwords"
            )
        if name == "start":
            command.add_argument(
                "--owner", type=int, help="remove the instance once this process has ended"
            )
        if name == "stop":
            command.add_argument("--kill", action="store_true", help="SIGKILL at once")
    return parser


def _build(places: Places, options: argparse.Namespace) -> int:
    control.build(places, options.names or DEFAULT)
    return 0


def _start(places: Places, options: argparse.Namespace) -> int:
    started = {}
    for name in options.names or DEFAULT:
        started[name] = record = control.start(places, name, options.owner)
        if not options.json:
            pids = " ".join(str(process.pid) for process in record.processes.values())
            print(f"{name:<14} {record.address}  (pid {pids})", flush=True)
    if options.json:
        print(json.dumps({name: asdict(record) for name, record in started.items()}))
    return 0


def _stop(places: Places, options: argparse.Namespace) -> int:
    for name in options.names or list(state.load(places).servers):
        server, _, label = name.partition("/")
        for line in control.stop(places, server, label=label, kill=options.kill):
            print(line, flush=True)
    return 0


def _remove(places: Places, options: argparse.Namespace) -> int:
    del options
    control.remove(places)
    return 0


def _status(places: Places, options: argparse.Namespace) -> int:
    known = state.load(places)
    if options.json:
        print(json.dumps({name: asdict(record) for name, record in known.servers.items()}))
        return 0
    if not known.servers:
        print(f"no servers were started in {os.path.relpath(places.home)}")
    for name, record in known.servers.items():
        running = record.running()
        word = "running" if len(running) == len(record.processes) else "partial"
        memory = sum(processes.resident_mb(process.pid) for process in running.values())
        pids = " ".join(str(process.pid) for process in running.values())
        print(
            f"{name:<14} {word if running else 'down':<8} {record.version:<10} {record.address}"
            + (f"  pid {pids}, {memory} MB, since {record.started_at}" if running else "")
        )
    return 0
