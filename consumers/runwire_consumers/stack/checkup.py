"""Checks of `runwire doctor` on the embedded stack: its machine, modules, parts and database."""

from __future__ import annotations

import importlib.util
import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runwire_consumers.clickhouse.engine import HTTP_PORT, TCP_PORT
from runwire_consumers.objects.lifecycle import LifecycleError
from runwire_consumers.stack import control, logs
from runwire_consumers.stack.state import StackError
from runwire_consumers.stack.survey import examine_parts
from runwire_disk import paths
from runwire_disk.survey import FAIL, OK, WARN, Finding, Section
from runwire_schemas.connections.clickhouse import ClickHouseSettings
from runwire_store.store import StoreAway, StoreError

DELAY_WARN_S = 30.0


def check_stack(root: Path) -> Section:
    """Check everything that the embedded stack needs, and its parts while it is up."""
    parts = examine_parts(root)
    findings = [_cpu(), _module("chdb", "embedded"), _module("clickhouse_connect", "embedded")]
    findings += [_module("matplotlib", "query"), _stack(parts), _ports(parts)]
    findings += _running_parts(root, parts)
    findings += bucket_findings(os.environ)
    return Section(name="stack", order=20, findings=findings)


def _cpu() -> Finding:
    """The engine's wheel is compiled for AVX2 on x86."""
    if platform.machine() not in {"x86_64", "AMD64"} or sys.platform != "linux":
        return Finding(OK, "cpu", platform.machine())
    if "avx2" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"):
        return Finding(OK, "cpu", "AVX2")
    advice = "the embedded engine needs it: use a ClickHouse server (RUNWIRE_CLICKHOUSE_URL)"
    return Finding(FAIL, "cpu", "no AVX2", advice)


def _module(name: str, extra: str) -> Finding:
    if importlib.util.find_spec(name) is not None:
        return Finding(OK, f"module {name}", "installed")
    level = WARN if extra == "query" else FAIL
    return Finding(level, f"module {name}", "missing", f"pip install 'runwire[{extra}]'")


def _stack(parts: dict[str, Any]) -> Finding:
    supervisor = parts["supervisor"]
    if not supervisor["alive"]:
        return Finding(WARN, "stack", "down", "`runwire up` starts it; logging works without it")
    if supervisor["stage"] != "ready":
        return Finding(WARN, "stack", str(supervisor["stage"]), "wait a moment and ask again")
    return Finding(OK, "stack", f"pid {supervisor['pid']}")


def _ports(parts: dict[str, Any]) -> Finding:
    """Check that the usual ports are ours or free; the engine takes others otherwise."""
    if parts["engine"]["alive"]:
        return Finding(OK, "ports", f"http {parts['engine']['port'] or 'of another starter'}")
    taken = [port for port in (HTTP_PORT, TCP_PORT) if _answers(port)]
    text = "free" if not taken else f"{taken} in use; the engine will choose free ones"
    return Finding(OK, "ports", text)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _running_parts(root: Path, parts: dict[str, Any]) -> Iterator[Finding]:
    """Yield the checks that need a running stack, or a server by URL."""
    if not parts["supervisor"]["alive"] and not ClickHouseSettings.from_environment(os.environ).url:
        return
    yield _attempt("migrations", lambda: _migrations(root))
    yield _attempt("tables and views", lambda: _drift(root))
    yield _attempt("reader password", lambda: _reader(root))
    worker = parts["worker"]
    if not parts["supervisor"]["alive"]:
        return
    log = logs.logs_dir(root) / "worker.log"
    if not worker["alive"]:
        yield Finding(FAIL, "worker", str(worker["note"]) or "does not answer", f"read {log}")
        return
    if worker["state"] not in {"running", "replaying"}:
        text = f"{worker['state']}: {worker['reason']}"
        yield Finding(WARN, "worker", text, f"it retries by itself; its log is {log}")
    else:
        yield Finding(OK, "worker", f"pid {worker['pid']}, {worker['state']}")
    delay_s = worker["delay_s"]
    if isinstance(delay_s, float) and delay_s > DELAY_WARN_S:
        advice = "it has a backlog, or the disk is too slow"
        yield Finding(WARN, "worker delay", f"{delay_s:.0f} s", advice)


def bucket_findings(environ: Mapping[str, str]) -> list[Finding]:
    """Return whether the bucket has our lifecycle rules; nothing where no bucket can be asked."""
    from runwire_schemas.connections import s3 as s3_settings

    check = "bucket rules"
    try:
        from runwire_consumers.objects.bucket import missing_rules

        settings = s3_settings.from_environment(environ)
        missing = [] if settings is None else missing_rules(settings)
    except (ModuleNotFoundError, s3_settings.S3SettingsError, StoreAway):
        return []  # the check of the object store reports these
    except (StoreError, LifecycleError) as error:
        return [Finding(OK, check, f"not compared: {error}")]
    if settings is None:
        return []
    if missing:
        advice = "`runwire migrate` sets them; without them the object worker deletes leftovers"
        return [Finding(WARN, check, f"missing or changed: {', '.join(missing)}", advice)]
    return [Finding(OK, check, f"{settings.bucket} has ours")]


def _attempt(check: str, act: Callable[[], str]) -> Finding:
    try:
        return Finding(OK, check, act())
    except StackError as error:
        return Finding(FAIL, check, str(error))
    except Exception as error:  # an error of the driver is a finding, not a crash
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


def _drift(root: Path) -> str:
    from runwire_consumers.clickhouse.client import connect
    from runwire_consumers.clickhouse.drift import find_drift, may_compare

    client = connect(control.writer_url(root))
    try:
        if not may_compare(client):
            return "not compared: this user may not see all of them (SHOW COLUMNS)"
        found = find_drift(client)
    finally:
        client.close()
    if found:
        option = "" if all(one.is_missing for one in found) else " --fix"
        sentences = "; ".join(one.sentence for one in found)
        raise StackError(f"{sentences}: `runwire migrate{option}` repairs it")
    return "as the migrations made them"


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
