"""The checks of `runwire doctor`: of the machine, the data folder, and the running parts."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from runwire_consumers.clickhouse.engine import HTTP_PORT, TCP_PORT
from runwire_consumers.stack import control, state, survey
from runwire_consumers.stack.errors import StackError
from runwire_consumers.stack.finding import FAIL, OK, WARN, Finding
from runwire_consumers.stack.kafka_checkup import kafka_findings
from runwire_consumers.stack.store_checkup import store_findings
from runwire_disk import paths
from runwire_disk.spool.format import SERIES, SpoolError, segment_name
from runwire_disk.spool.reader import list_folders, read_meta, writer_alive
from runwire_disk.spool.scan import open_scan
from runwire_disk.spool.series_reader import segment_numbers

FREE_BYTES_FAIL, FREE_BYTES_WARN = 256 << 20, 5 << 30  # one live run's segments; a week of runs
DELAY_WARN_S = 30.0
VERIFY_BYTES_MAX = 256 << 20  # more than this takes seconds: `spool verify` reads it all
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "fuse.sshfs"}


def examine(root: Path) -> list[Finding]:
    """Run every check; none of them changes anything."""
    parts = survey.survey(root)
    findings = [_python(), _platform(), _cpu(), _folder(root), _disk(root), _file_system(root)]
    findings += [_module("chdb", "embedded"), _module("clickhouse_connect", "embedded")]
    findings += [_module("matplotlib", "query"), _stack(parts)]
    findings += [_ports(parts), *_parts(root, parts)]
    findings += [_agent(parts), _dead_letters(parts), _pending(parts), _spool(root)]
    findings.append(_outbox(parts["uploads"]))
    findings += store_findings(os.environ, root)
    findings += kafka_findings(os.environ)
    return findings


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding(OK, "python", version)
    return Finding(WARN, "python", version, "runwire is tested with Python 3.11 to 3.13")


def _platform() -> Finding:
    found = f"{platform.system()} {platform.machine()}"
    if sys.platform == "linux":
        return Finding(OK, "platform", found)
    return Finding(WARN, "platform", found, "only Linux is tested; macOS runs by fallbacks")


def _cpu() -> Finding:
    """The engine's wheel is compiled for AVX2 on x86."""
    if platform.machine() not in {"x86_64", "AMD64"} or sys.platform != "linux":
        return Finding(OK, "cpu", platform.machine())
    if "avx2" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"):
        return Finding(OK, "cpu", "AVX2")
    advice = "the embedded engine needs it: use a ClickHouse server (RUNWIRE_CLICKHOUSE_URL)"
    return Finding(FAIL, "cpu", "no AVX2", advice)


def _folder(root: Path) -> Finding:
    place = root
    while not place.exists():
        place = place.parent
    if os.access(place, os.W_OK | os.X_OK):
        made = "" if root.exists() else " (will be created)"
        return Finding(OK, "data folder", f"{root}{made}")
    advice = "choose another with --dir or RUNWIRE_DIR, or make it yours (chown)"
    return Finding(FAIL, "data folder", f"{place} is not writable", advice)


def _existing(root: Path) -> Path:
    while not root.exists():
        root = root.parent
    return root


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(_existing(root)).free
    found = f"{free / 1e9:.1f} GB free"
    advice = "free some, or move the data folder with RUNWIRE_DIR"
    if free < FREE_BYTES_FAIL:
        return Finding(FAIL, "disk", found, advice)
    return (
        Finding(WARN, "disk", found, advice)
        if free < FREE_BYTES_WARN
        else Finding(OK, "disk", found)
    )


def _file_system(root: Path) -> Finding:
    place = _existing(root).resolve()
    mounts = [
        mount
        for mount in psutil.disk_partitions(all=True)
        if place.is_relative_to(mount.mountpoint)
    ]
    kind = max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else "unknown"
    if kind == "tmpfs":
        advice = "a reboot empties it: use a disk for runs that matter"
        return Finding(WARN, "file system", "tmpfs (memory)", advice)
    if kind in NETWORK_FILE_SYSTEMS:
        advice = "locks and mappings are slower and less sure over a network: use a local disk"
        return Finding(WARN, "file system", kind, advice)
    return Finding(OK, "file system", kind)


def _module(name: str, extra: str) -> Finding:
    if importlib.util.find_spec(name) is not None:
        return Finding(OK, f"module {name}", "installed")
    level = WARN if extra == "query" else FAIL
    return Finding(level, f"module {name}", "missing", f"pip install 'runwire[{extra}]'")


def _stack(parts: dict[str, Any]) -> Finding:
    supervisor = parts["supervisor"]
    if not supervisor["alive"]:
        return Finding(WARN, "stack", "down", "`runwire up` starts it; logging works without")
    if supervisor["stage"] != "ready":
        return Finding(WARN, "stack", str(supervisor["stage"]), "wait a moment and ask again")
    return Finding(OK, "stack", f"pid {supervisor['pid']}")


def _ports(parts: dict[str, Any]) -> Finding:
    """Whether the usual ports are ours or free; the engine takes other ones otherwise."""
    if parts["engine"]["alive"]:
        return Finding(OK, "ports", f"http {parts['engine']['port'] or 'of another starter'}")
    taken = [port for port in (HTTP_PORT, TCP_PORT) if _answers(port)]
    found = "free" if not taken else f"{taken} taken by others; the engine will choose free ones"
    return Finding(OK, "ports", found)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _parts(root: Path, parts: dict[str, Any]) -> Iterator[Finding]:
    """Checks that need a running stack, or a server by URL."""
    if not parts["supervisor"]["alive"] and not os.environ.get("RUNWIRE_CLICKHOUSE_URL"):
        return
    yield _attempt("migrations", lambda: _migrations(root))
    yield _attempt("reader password", lambda: _reader(root))
    worker = parts["worker"]
    if not parts["supervisor"]["alive"]:
        return
    log = state.logs_dir(root) / "worker.log"
    if not worker["alive"]:
        yield Finding(FAIL, "worker", str(worker["note"]) or "does not answer", f"read {log}")
        return
    if worker["state"] not in {"running", "replaying"}:
        found = f"{worker['state']}: {worker['reason']}"
        yield Finding(WARN, "worker", found, f"it tries on by itself; its log is {log}")
    else:
        yield Finding(OK, "worker", f"pid {worker['pid']}, {worker['state']}")
    delay_s = worker["delay_s"]
    if isinstance(delay_s, float) and delay_s > DELAY_WARN_S:
        advice = "it works off a backlog, or the disk is too slow"
        yield Finding(WARN, "worker delay", f"{delay_s:.0f} s", advice)


def _attempt(check: str, act: Callable[[], str]) -> Finding:
    try:
        return Finding(OK, check, act())
    except StackError as error:
        return Finding(FAIL, check, str(error))
    except Exception as error:  # whatever the driver raises is a finding, not a crash
        advice = "see `runwire status`, and the logs in embedded/logs"
        return Finding(FAIL, check, (str(error) or type(error).__name__).splitlines()[0], advice)


def _migrations(root: Path) -> str:
    from runwire_consumers.clickhouse.client import connect
    from runwire_consumers.clickhouse.migrate import pending

    client = connect(control.writer_url(root))
    try:
        missing = pending(client)
    finally:
        client.close()
    if missing:
        raise StackError(f"{', '.join(missing)} not applied: run `runwire migrate`")
    return "all applied"


def _reader(root: Path) -> str:
    from runwire_consumers.clickhouse.client import connect

    url = control.connection(root).get("reader_url")
    if not isinstance(url, str):
        return "no embedded engine here yet"
    client = connect(url)
    try:
        client.command("SELECT count() FROM v_runs")
    finally:
        client.close()
    return f"works ({paths.connection_file(root)})"


def _agent(parts: dict[str, Any]) -> Finding:
    agent = parts["agent"]
    if agent["alive"]:
        return Finding(OK, "agent", f"pid {agent['pid']}")
    live = sum(run["live_writers"] for run in parts["runs"])
    if live:
        advice = "`runwire up` starts one; without it a killed trainer is noticed late"
        return Finding(WARN, "agent", f"none, but {live} trainers live", advice)
    return Finding(OK, "agent", "none needed: no trainer lives")


def _dead_letters(parts: dict[str, Any]) -> Finding:
    count = parts["dead_letters"]
    if count:
        return Finding(WARN, "dead letters", str(count), "`runwire dead-letters ls` names reasons")
    return Finding(OK, "dead letters", "none")


def _pending(parts: dict[str, Any]) -> Finding:
    runs = parts["runs"]
    points = sum(run["pending_points"] for run in runs)
    return Finding(OK, "spool", f"{len(runs)} runs, {points:,} points pending")


def _outbox(entry: dict[str, Any]) -> Finding:
    found = f"{entry['waiting']:,} artifacts, {entry['bytes'] / 1e6:,.1f} MB"
    if entry["error"]:
        return Finding(WARN, "outbox", found, entry["error"])
    if entry["failed"]:
        advice = "`runwire status` names the reasons; log these artifacts again"
        return Finding(WARN, "outbox", f"{found}; {len(entry['failed'])} failed", advice)
    return Finding(OK, "outbox", found)


def _spool(root: Path) -> Finding:
    """Damage in the segments of ended writers; a live one is judged by its reader."""
    budget, damaged = VERIFY_BYTES_MAX, []
    for folder in list_folders(root):
        try:
            read_meta(folder)
            if writer_alive(folder):
                continue
            for series in SERIES:
                for number in segment_numbers(folder, series):
                    path = folder / segment_name(series, number)
                    budget -= path.stat().st_size
                    if budget >= 0 and _is_damaged(path, series, number):
                        damaged.append(f"{folder.name}/{path.name}")
        except FileNotFoundError:
            continue  # delivered and removed meanwhile
        except (SpoolError, OSError) as error:
            damaged.append(str(error))
    if damaged:
        advice = "`runwire spool verify` tells what; the rest is delivered, damage is dead-lettered"
        return Finding(WARN, "spool damage", f"{len(damaged)}: {damaged[0]}", advice)
    partly = "" if budget >= 0 else " in the first 256 MiB; `runwire spool verify` reads all"
    return Finding(OK, "spool damage", f"none{partly}")


def _is_damaged(path: Path, series: str, number: int) -> bool:
    scan = open_scan(path, series=series, number=number, expected=0)
    scan.damages.clear()  # earlier segments were delivered
    try:
        while scan.step(1 << 20, sealed=True):
            pass
        return bool(scan.damages or scan.header_error)
    finally:
        os.close(scan.fd)
