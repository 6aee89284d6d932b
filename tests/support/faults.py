"""Real engine, worker and trainers of one data root, to be killed: only what was started here."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from runwire_consumers.clickhouse.client import connect
from runwire_consumers.clickhouse.engine import Engine
from runwire_consumers.clickhouse.migrate import apply
from runwire_disk.paths import embedded_dir
from runwire_disk.spool.reader import list_folders
from support import harness_worker

TRAINER = Path(__file__).parents[1] / "faults" / "fuzz_trainer.py"
LABELS = {"single": 1, "threads": 4, "forks": 3}
PATIENCE_S = 120.0
# Counts what was inserted, merged or not: a row that was ever inserted twice shows here for good.
DETECTOR = """
CREATE TABLE IF NOT EXISTS inserted (writer UInt64, seq Int64, n UInt64, total Float64)
ENGINE = SummingMergeTree ORDER BY (writer, seq)
SETTINGS non_replicated_deduplication_window = 10000;
CREATE MATERIALIZED VIEW IF NOT EXISTS inserted_mv TO inserted AS
SELECT writer, seq, count() AS n, sum(value) AS total FROM metrics GROUP BY writer, seq
"""


class UnexpectedError(AssertionError):
    """A process ended or waited when the test did not expect it."""


def wait_for(
    what: str, ready: Callable[[], bool], *, log: Path | None = None, every_s: float = 0.02
) -> None:
    """Poll until `ready`. Raises: UnexpectedError after a generous time."""
    end_s = time.monotonic() + PATIENCE_S
    while not ready():
        if time.monotonic() > end_s:
            end = f"; {tail(log)}" if log else ""
            raise UnexpectedError(f"waited {PATIENCE_S:g} s for {what}{end}")
        time.sleep(every_s)


class Stack:
    """The processes of one fuzz; use as a context manager, which ends all that is left."""

    def __init__(self, root: Path, *, unsafe: bool = False) -> None:
        self.root = root
        self.acks = root / "acks"
        self.acks.mkdir(parents=True)
        self._stop_file = root / "stop"
        self._unsafe = unsafe
        self._next_label = 0
        self.engine = Engine(embedded_dir(root), ports=(0, 0), die_with_parent=True)
        self.engine_pid = 0
        self.proxy_url = ""  # of a proxy between worker and engine
        self.worker: subprocess.Popen[bytes] | None = None
        self.trainer: subprocess.Popen[bytes] | None = None
        self.trainers_log = root / "trainers.log"
        self.worker_log = root / "worker.log"

    def __enter__(self) -> Stack:
        self.start_engine()
        client = connect(self.url, create=True)
        apply(client)
        for statement in DETECTOR.split(";\n"):
            client.command(statement)
        client.close()
        self.start_worker()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_trainer()
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
        self.engine.stop()

    @property
    def url(self) -> str:
        """The current address of the engine."""
        return self.engine.wait_ready(PATIENCE_S).url

    def start_engine(self) -> None:
        self.engine.start()
        self.engine.wait_ready(PATIENCE_S)
        self.engine_pid = self.engine.pid or 0

    def kill_engine(self) -> None:
        os.kill(self.engine_pid, signal.SIGKILL)
        wait_for("the engine to be gone", lambda: not self.engine.alive())

    def start_worker(self, kill_at: str = "") -> None:
        environ = os.environ | {
            "RUNWIRE_WORKER_BATCH_AGE_S": "0.05",
            "RUNWIRE_WORKER_RETRY_MAX_S": "0.5",
        }
        if self.proxy_url:
            environ |= {
                "RUNWIRE_CLICKHOUSE_URL": self.proxy_url,
                "RUNWIRE_WORKER_BATCH_AGE_S": "0.5",  # blocks above the limit
                "RUNWIRE_WORKER_BATCH_ROWS": "20000",  # and not far above it, after a kill
            }
        arguments = ("--dir", str(self.root))
        with self.worker_log.open("ab") as log:
            self.worker = subprocess.Popen(
                harness_worker.command(*arguments, kill_at=kill_at, unsafe=self._unsafe),
                env=environ | harness_worker.environment(),
                stdout=log,
                stderr=log,
            )

    def kill_worker(self) -> None:
        self.check_worker()
        assert self.worker is not None
        self.worker.kill()
        self.worker.wait()

    def stop_worker(self) -> None:
        """End the worker in order. Raises: UnexpectedError unless it says that nothing was left."""
        self.check_worker()
        assert self.worker is not None
        self.worker.terminate()
        status = self.worker.wait(PATIENCE_S)
        # A signal in the first moments finds no handler yet.
        if status not in (0, -signal.SIGTERM):
            raise UnexpectedError(f"the worker left with {status}; {tail(self.worker_log)}")

    def wait_for_suicide(self) -> None:
        """Wait until the worker reached its kill point."""
        assert self.worker is not None
        worker = self.worker
        wait_for("the kill point", lambda: worker.poll() is not None, log=self.worker_log)
        if worker.returncode != -signal.SIGKILL:
            raise UnexpectedError(
                f"the worker left with {worker.returncode}; {tail(self.worker_log)}"
            )

    def check_worker(self) -> None:
        """Raises: UnexpectedError when the worker ended by itself."""
        if self.worker is None or self.worker.poll() is not None:
            code = None if self.worker is None else self.worker.returncode
            raise UnexpectedError(
                f"the worker ended by itself with {code}; {tail(self.worker_log)}"
            )

    def start_trainer(self, mode: str, *, calls: int = 100_000, pause_s: float = 0.001) -> None:
        label = self._next_label
        self._next_label += LABELS[mode]
        told: dict[str, Any] = {
            "mode": mode,
            "label": label,
            "calls": calls,
            "pause_s": pause_s,
            "acks": str(self.acks),
            "stop": str(self._stop_file),
            # Every third continues an earlier run as another attempt.
            "run_id": f"run-{label - label % 3}",
        }
        environ = os.environ | {
            "RUNWIRE_DIR": str(self.root),
            "RUNWIRE_AGENT": "none",
            "RUNWIRE_CAPTURE_GIT": "0",
            "RUNWIRE_QUIET": "1",  # what is left on stderr are complaints
        }
        with self.trainers_log.open("ab") as log:
            self.trainer = subprocess.Popen(
                [sys.executable, str(TRAINER), json.dumps(told)],
                env=environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def trainer_runs(self) -> bool:
        return self.trainer is not None and self.trainer.poll() is None

    def kill_trainer_somehow(self, rng: random.Random) -> str:
        """SIGKILL the trainer, one of its forked children, or its whole process group."""
        assert self.trainer is not None
        children = psutil.Process(self.trainer.pid).children() if self.trainer_runs else []
        chosen = rng.choice(("process", "child", "group") if children else ("process", "group"))
        if chosen == "child":
            rng.choice(children).kill()
            return "trainer child"
        if chosen == "process":
            self.trainer.kill()
        self.kill_trainer(wait_first=chosen == "process" and bool(children))
        return f"trainer {chosen}"

    def kill_trainer(self, *, wait_first: bool = False) -> None:
        """SIGKILL the group, at once or after forked children had a moment alone."""
        if self.trainer is None:
            return
        if wait_first:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.trainer.pid, signal.SIGKILL)  # its own session: start_new_session
        self.trainer.wait()
        self.trainer = None

    def wait_for_acks(self) -> None:
        """Wait until the trainer acknowledged something, or ended."""
        first = self.acks / f"{self._next_label - 1}.ack"
        wait_for(
            "a first call",
            lambda: not self.trainer_runs or (first.exists() and first.stat().st_size > 0),
            log=self.trainers_log,
        )

    def complaints(self) -> list[str]:
        """Warnings of the trainers: none, as long as nothing is dropped or refused."""
        return self.trainers_log.read_text(errors="replace").splitlines()

    def journal_bytes(self) -> int:
        """Size of the worker's journal; 0 when there is none."""
        try:
            return (embedded_dir(self.root) / "journal" / "intents.log").stat().st_size
        except FileNotFoundError:
            return 0

    def finish(self) -> None:
        """Let the trainer finish, the worker drain the spool, and end the worker in order."""
        self._stop_file.touch()
        if self.trainer is not None:
            status = self.trainer.wait(PATIENCE_S)
            if status != 0:
                raise UnexpectedError(f"a trainer left with {status}; {tail(self.trainers_log)}")

        def drained() -> bool:
            self.check_worker()
            return not list_folders(self.root)

        wait_for("the spool to drain", drained, log=self.worker_log, every_s=0.1)
        self.stop_worker()


def tail(path: Path, lines: int = 12) -> str:
    """The end of a log, for a message."""
    try:
        return f"{path.name}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return f"{path.name} is not there"
