"""`runwire up`: the embedded stack in the background."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

SUMMARY = "start the embedded ClickHouse and its worker in the background"
EXAMPLE = "runwire up --dir ./telemetry"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `up`."""
    parser.add_argument("--foreground", action="store_true", help="stay attached; Ctrl-C stops it")
    parser.add_argument(
        "--metrics-port",
        type=int,
        metavar="PORT",
        help="port of the worker's /metrics and /healthz (default: 9464, or a free one)",
    )
    parser.add_argument("--json", action="store_true", help="print the addresses as JSON")


def run(args: argparse.Namespace) -> int:
    """Start, wait until everything answers, print the next commands."""
    from runwire_consumers.stack import agent, control, lock, state
    from runwire_disk import paths
    from runwire_schemas.connections.clickhouse import ClickHouseSettings

    if ClickHouseSettings.from_environment(os.environ).url:
        print(
            "note: RUNWIRE_CLICKHOUSE_URL is set, so `runwire sql` queries that server and not the "
            "embedded one; unset it to see the runs logged here",
            file=sys.stderr,
        )
    root = paths.state_dir(args.dir)
    control.prepare(root)
    running = lock.holder(root)
    if running is not None:
        now = control.wait_other_ready(root, _say)
        agent.ensure_agent(root)
        return _announce(root, now, args, fresh=False)
    process = control.start(root, args.metrics_port, foreground=args.foreground)
    try:
        ready = control.wait_ready(root, process, _say)
    except BaseException:  # Ctrl-C too: no half-started process may stay behind
        _end(process)
        raise
    agent.ensure_agent(root)
    if ready is None:  # two `up` at once: the other one won
        ready = control.wait_other_ready(root, _say)
        return _announce(root, ready, args, fresh=False)
    assert ready.stage == state.READY
    status = _announce(root, ready, args, fresh=True)
    return _attend(process) if args.foreground else status


def _say(stage: str) -> None:
    print(f"  {stage} ...", file=sys.stderr, flush=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    process.wait()


def _attend(process: subprocess.Popen[bytes]) -> int:
    """Stay until Ctrl-C, SIGTERM or `runwire down`."""
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        print("in the foreground: Ctrl-C stops it", flush=True)
        return process.wait()
    except KeyboardInterrupt:
        _end(process)
        return 0


def _announce(root: Path, now: object, args: argparse.Namespace, *, fresh: bool) -> int:
    from runwire_consumers.stack import control, state
    from runwire_disk import paths

    assert isinstance(now, state.StackState)
    address = control.connection(root)
    if args.json:
        fields = {
            "dir": str(root),
            "already_running": not fresh,
            "supervisor_pid": now.pid,
            "http_port": address.get("http_port"),
            "tcp_port": address.get("tcp_port"),
            "metrics_port": now.worker.port,
            "connection_file": str(paths.connection_file(root)),
        }
        print(json.dumps(fields))
        return 0
    where = "" if args.dir is None else f" --dir {shlex.quote(args.dir)}"
    headline = "runwire is up" if fresh else f"runwire is already running (pid {now.pid})"
    http, tcp = (f"127.0.0.1:{address.get(name)}" for name in ("http_port", "tcp_port"))
    lines = [
        f"{headline}: {root}",
        f"  ClickHouse   http {http}, native {tcp}, database runwire",
        f"  password     user `reader`, in reader_url of {paths.connection_file(root)}",
        f"  worker       http://127.0.0.1:{now.worker.port}/metrics",
        "next:",
        *(
            [f"  export RUNWIRE_DIR={shlex.quote(str(root))}   # so that training scripts log here"]
            if where
            else []
        ),
        f"  runwire runs{where}",
        f'  runwire sql{where} "SELECT run_id, status, last_step FROM v_runs"',
        f"  runwire down{where}",
    ]
    print("\n".join(lines))
    return 0
