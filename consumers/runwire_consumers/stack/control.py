"""Control of the supervisor by `up` and `down`: start it, wait for it, stop it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from runwire_consumers.stack import lifeline, lock, logs, state
from runwire_consumers.stack.state import StackError
from runwire_disk import paths
from runwire_schemas.connections.clickhouse import ClickHouseSettings

POLL_S = 0.1
READY_S = 180.0  # a cold 555 MB library on a slow disk takes most of a minute
STOP_S = 60.0
ALREADY_RUNNING = 3  # the exit status of a supervisor when another one holds the lock


def prepare(root: Path) -> None:
    """Create the folders of the stack. Raises: StackError when that is not possible."""
    try:
        for folder in (root, paths.embedded_dir(root), logs.logs_dir(root)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = paths.embedded_dir(root) / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StackError(
            f"cannot write to the data folder {root}: {error.strerror}. "
            "Choose another one with --dir or RUNWIRE_DIR, or make this one yours (chown)."
        ) from error


def start(root: Path, metrics_port: int | None, *, foreground: bool) -> subprocess.Popen[bytes]:
    """Start a supervisor; in the foreground it is tied to this process, else it outlives it."""
    arguments = ["--dir", str(root)]
    if metrics_port is not None:
        arguments += ["--metrics-port", str(metrics_port)]
    module = "runwire_consumers.stack.supervisor"
    if foreground:
        command = lifeline.command(module, *arguments, signum=signal.SIGTERM)
    else:
        command = [sys.executable, "-m", module, *arguments]
    state.state_file(root).unlink(missing_ok=True)
    log = logs.open_log(log_file(root))
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(log)


def log_file(root: Path) -> Path:
    """Return the path of the supervisor's log."""
    return logs.logs_dir(root) / "supervisor.log"


def wait_ready(
    root: Path, process: subprocess.Popen[bytes], say: Callable[[str], None]
) -> state.StackState | None:
    """Wait until everything answers; None when another supervisor was first.

    Blocks: at most `READY_S`. Raises: StackError with the reason and the end of the log.
    """
    deadline, since, shown = time.monotonic() + READY_S, time.time(), ""
    while True:
        now = state.read_state(root)
        if now is not None and now.pid == process.pid:
            if now.stage == state.READY:
                return now
            if now.stage not in {shown, state.FAILED}:
                shown = now.stage
                say(shown)
        code = process.poll()
        if code == ALREADY_RUNNING:
            return None
        if code is not None:
            raise StackError(
                _failure(root, process.pid, since, reason=f"the supervisor ended ({code})")
            )
        if time.monotonic() > deadline:
            process.terminate()
            raise StackError(
                _failure(root, process.pid, since, reason=f"not ready after {READY_S:.0f} s")
            )
        time.sleep(POLL_S)


def wait_other_ready(root: Path, say: Callable[[str], None]) -> state.StackState:
    """Wait for a stack that another process is starting. Blocks: at most `READY_S`."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        running, now = lock.holder(root), state.read_state(root)
        if running is None:
            raise StackError("the stack that was starting has ended; run `runwire up` again")
        if now is not None and now.pid == running.pid and now.stage == state.READY:
            return now
        say(now.stage if now is not None else "starting")
        time.sleep(0.5)
    raise StackError(f"the running stack is not ready; see {log_file(root)}")


def _failure(root: Path, pid: int, since: float, *, reason: str) -> str:
    now = state.read_state(root)
    if now is not None and now.pid == pid and now.error:
        reason = now.error
    lines = [f"the stack in {root} did not start: {reason}"]
    for log in sorted(logs.logs_dir(root).glob("*.log")):
        tail = logs.log_tail(log, lines=6)
        if tail and log.stat().st_mtime >= since:
            lines += [f"--- end of {log}", tail]
    lines.append("Everything logged meanwhile is safe in the spool. `runwire doctor` checks more.")
    return "\n".join(lines)


def stop(root: Path) -> bool:
    """Stop the stack of this folder; whether one was running. Blocks: until it is gone."""
    running = lock.holder(root)
    if running is None:
        state.state_file(root).unlink(missing_ok=True)
        return False
    try:
        os.kill(running.pid, signal.SIGTERM)
    except PermissionError as error:
        raise StackError(f"process {running.pid} belongs to another user; ask its owner") from error
    except ProcessLookupError:
        return True
    try:
        psutil.Process(running.pid).wait(STOP_S)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired as error:
        raise StackError(
            f"supervisor {running.pid} did not end within {STOP_S:.0f} s; see {log_file(root)}. "
            f"`kill -9 {running.pid}` is safe: the next `runwire up` resumes from the spool."
        ) from error
    return True


def connection(root: Path) -> dict[str, object]:
    """Return the addresses that the engine wrote; empty when it never started here."""
    try:
        fields = json.loads(paths.connection_file(root).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def writer_url(root: Path) -> str:
    """Return the URL with write access: $RUNWIRE_CLICKHOUSE_URL, else the embedded engine's.

    Raises: StackError when there is neither.
    """
    url = ClickHouseSettings.from_environment(os.environ).url or connection(root).get("url")
    if not isinstance(url, str):
        raise StackError(
            f"no ClickHouse is set up for {root}: start the embedded one with `runwire up`, or set "
            "RUNWIRE_CLICKHOUSE_URL=http://user:password@host:port/runwire"
        )
    return url
