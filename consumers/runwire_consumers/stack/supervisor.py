"""The process behind `runwire up`: starts engine and workers, restarts those that crash.

It holds the folder's stack lock for as long as it lives; its children die with it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from runwire_consumers.clickhouse.engine import Connection, Engine
from runwire_consumers.stack import agent, lock, logs, state
from runwire_consumers.stack.state import StackError
from runwire_consumers.stack.worker_process import WorkerProcess
from runwire_disk import paths
from runwire_disk.agents.lock import local_agents
from runwire_schemas.connections.kafka import PREFIX
from runwire_schemas.errors import RunwireError

BROKERS_VARIABLE = f"{PREFIX}BOOTSTRAP_SERVERS"
TICK_S = 0.2
WORKER_READY_S = 60.0
# A predecessor killed a moment ago may still hold the lock, or its engine the data folder.
LOCK_TIMEOUT_S = 5.0
ENGINE_TAKEOVER_S = 20.0
ALREADY_RUNNING = 3
HOUSEKEEPING_TICKS = 50  # every 10 s


FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0  # a child that cannot start costs two attempts a minute, not a busy loop
HEALTHY_AFTER_S = 60.0


class RestartDelay:
    """The wait before a crashed child restarts: doubled per crash, reset by a healthy minute.

    Units: instants in seconds of one monotonic clock.
    """

    def __init__(self) -> None:
        self._delay_s = 0.0
        self._started_at = 0.0
        self._retry_at = 0.0

    def started(self, now: float) -> None:
        """Note a start."""
        self._started_at = now

    def crashed(self, now: float) -> float:
        """Note a crash; return the seconds until the next start."""
        if now - self._started_at >= HEALTHY_AFTER_S:
            self._delay_s = 0.0
        self._delay_s = min(max(FIRST_DELAY_S, self._delay_s * 2), MAX_DELAY_S)
        self._retry_at = now + self._delay_s
        return self._delay_s

    def may_start(self, now: float) -> bool:
        """Whether the delay is over."""
        return now >= self._retry_at


class _StopRequested(Exception):  # noqa: N818 - a request, not an error
    """SIGTERM or SIGINT."""


class Supervisor:
    """The stack of one folder, from the first child's start to the last one's end."""

    def __init__(self, root: Path, metrics_port: int | None) -> None:
        self._root = root
        self._engine = Engine(paths.embedded_dir(root), die_with_parent=True)
        self._connection: Connection | None = None
        self._worker = WorkerProcess(root, metrics_port)
        self._objects: WorkerProcess | None = None
        self._state = state.StackState(pid=os.getpid())
        self._delays = {name: RestartDelay() for name in ("engine", "worker", "objects")}
        if os.environ.get(BROKERS_VARIABLE, "").strip():
            self._objects = WorkerProcess(root, kind="objects")
            self._state.objects = state.ChildState()

    def run(self) -> int:
        """Bring the stack up and keep it up until a signal. Blocks: until then."""
        signal.signal(signal.SIGTERM, _request_stop)
        signal.signal(signal.SIGINT, _request_stop)
        try:
            self._start()
            self._watch()
        except _StopRequested:
            self._stop("stopping")
        except Exception as error:
            self._state.error = str(error) or type(error).__name__
            self._stop(state.FAILED)
            if not isinstance(error, RunwireError):
                raise
            _note(str(error))
            return 1
        state.state_file(self._root).unlink(missing_ok=True)
        return 0

    def _start(self) -> None:
        self._publish("starting the ClickHouse engine")
        self._start_engine()
        self._publish("applying migrations")
        self._migrate()
        self._publish("starting the worker")
        self._start_worker()
        deadline = time.monotonic() + WORKER_READY_S
        while not self._worker.ready():
            if not self._worker.alive():
                code = self._worker.exit_code
                raise StackError(f"the worker ended with status {code} at its start")
            if time.monotonic() > deadline:
                raise StackError(f"the worker did not answer within {WORKER_READY_S:.0f} s")
            time.sleep(TICK_S)
        if self._objects is not None:
            self._start_objects()
        self._publish(state.READY)

    def _start_engine(self) -> None:
        """Start it; a killed predecessor's engine may hold the folder a moment longer."""
        deadline = time.monotonic() + ENGINE_TAKEOVER_S
        while self._engine.alive() and time.monotonic() < deadline:
            time.sleep(TICK_S)
        try:
            self._engine.start()
            self._connection = self._engine.wait_ready()
        except BaseException:
            self._engine.stop()
            raise
        self._delays["engine"].started(time.monotonic())

    def _migrate(self) -> None:
        from runwire_consumers.clickhouse.client import MIGRATION_ANSWER_S, connect
        from runwire_consumers.clickhouse.migrate import apply

        assert self._connection is not None, "the engine is ready before it is migrated"
        client = connect(self._connection.url, create=True, answer_s=MIGRATION_ANSWER_S)
        try:
            for name in apply(client):
                _note(f"applied {name}")
        finally:
            client.close()

    def _start_worker(self) -> None:
        self._worker.start()
        self._delays["worker"].started(time.monotonic())

    def _start_objects(self) -> None:
        assert self._objects is not None, "only started where there are brokers"
        self._objects.start()
        self._delays["objects"].started(time.monotonic())

    def _watch(self) -> None:
        ticks = 0
        while True:
            time.sleep(TICK_S)
            changed = self._revive("engine", self._engine.alive, self._start_engine)
            changed |= self._revive("worker", self._worker.alive, self._start_worker)
            if self._objects is not None:
                changed |= self._revive("objects", self._objects.alive, self._start_objects)
            # A restarted worker publishes its port a moment after its start.
            if self._state.worker.port is None:
                changed |= self._worker.port is not None
            if changed:
                self._publish(self._state.stage)
            ticks += 1
            if ticks % HOUSEKEEPING_TICKS == 0:
                self._keep_house()

    def _keep_house(self) -> None:
        """Keep logs small, trainers watched and artifacts shipped when their agent was killed."""
        try:
            for log in logs.logs_dir(self._root).glob("*.log"):
                logs.cap_log(log)
            if not local_agents(self._root) and agent.has_work(self._root):
                agent.ensure_agent(self._root)
        except OSError as error:  # a full disk: the stack itself keeps running
            _note(f"housekeeping: {error}")

    def _revive(self, name: str, alive: Callable[[], bool], start: Callable[[], None]) -> bool:
        """Restart a dead child when its delay is over; whether its state changed."""
        part: state.ChildState = getattr(self._state, name)
        delay, now = self._delays[name], time.monotonic()
        if alive():
            return False
        if part.pid is not None:  # seen for the first time
            delay_s = delay.crashed(now)
            part.pid, part.note = None, f"ended unexpectedly; starts again in {delay_s:.1f} s"
            _note(f"{name} {part.note}")
            return True
        if not delay.may_start(now):
            return False
        part.restarts += 1
        try:
            start()
            part.note = ""
        except _StopRequested:
            raise
        except Exception as error:  # the next attempt may succeed: a port, memory, disk space
            delay_s = delay.crashed(time.monotonic())
            part.note = f"{str(error).splitlines()[0]}; tries again in {delay_s:.1f} s"
            _note(f"{name} {part.note}")
        return True

    def _stop(self, stage: str) -> None:
        """Stop the workers first, so that they flush into a live engine.

        A second signal skips that wait.
        """
        self._publish(stage)
        try:
            if self._objects is not None:
                self._objects.stop()
            self._worker.stop()
        except _StopRequested:
            _note("second signal: not waiting for the worker's flush")
        self._engine.stop()
        self._publish(stage)

    def _publish(self, stage: str) -> None:
        """Write the state file, and the stage into the log."""
        self._state.stage = stage
        self._state.engine.pid = self._engine.pid
        self._state.engine.port = self._connection.http_port if self._connection else None
        self._state.worker.pid = self._worker.pid
        self._state.worker.port = self._worker.port
        if self._objects is not None and self._state.objects is not None:
            self._state.objects.pid = self._objects.pid
        state.write_state(self._root, self._state)
        _note(stage)


def _note(text: str) -> None:
    """Write one line of the supervisor's log."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} supervisor {text}", flush=True)


def _request_stop(_signum: int, _frame: FrameType | None) -> None:
    raise _StopRequested


def main(argv: list[str] | None = None) -> int:
    """Be the supervisor. Blocks: until a signal."""
    parser = argparse.ArgumentParser(prog="runwire-supervisor")
    parser.add_argument("--dir", required=True)
    parser.add_argument("--metrics-port", type=int)
    args = parser.parse_args(argv)
    root = paths.state_dir(args.dir)
    held = lock.acquire(root, LOCK_TIMEOUT_S)
    if held is None:
        return ALREADY_RUNNING
    return Supervisor(root, args.metrics_port).run()


if __name__ == "__main__":
    sys.exit(main())
