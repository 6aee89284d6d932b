"""A worker as a child process of the supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from runwire_consumers.settings import STATE_FILE
from runwire_consumers.stack import lifeline, logs
from runwire_disk import paths
from runwire_schemas.connections.loopback import open_here

STOP_S = 20.0


class WorkerProcess:
    """One worker, `python -m runwire_consumers <kind>`: started, checked and stopped."""

    def __init__(
        self, root: Path, metrics_port: int | None = None, *, kind: str = "clickhouse"
    ) -> None:
        self._root = root
        self._kind = kind
        self._metrics_port = metrics_port
        name = "worker.log" if kind == "clickhouse" else f"{kind}.log"
        self.log = logs.logs_dir(root) / name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Return its pid while it lives."""
        return self._process.pid if self._process is not None and self.alive() else None

    @property
    def exit_code(self) -> int | None:
        """Return its exit code; None while it runs or before its first start."""
        return self._process.poll() if self._process is not None else None

    @property
    def port(self) -> int | None:
        """Return the port of its pages once it is open: a free one when the usual one is in use."""
        try:
            text = (paths.embedded_dir(self._root) / STATE_FILE).read_text(encoding="utf-8")
            fields = json.loads(text)
            return int(fields["metrics_port"]) if fields["pid"] == self.pid else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def start(self) -> None:
        """Start it, tied to this process by SIGKILL: a worker repeats its unfinished batch."""
        log = logs.open_log(self.log)
        arguments = [self._kind, "--dir", str(self._root)]
        if self._metrics_port is not None:
            arguments += ["--metrics-port", str(self._metrics_port)]
        # This stack's worker writes to this stack's engine, even if queries go to another server.
        environment = {k: v for k, v in os.environ.items() if k != "RUNWIRE_CLICKHOUSE_URL"}
        try:
            self._process = subprocess.Popen(
                lifeline.command("runwire_consumers", *arguments, signum=signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**environment, "RUNWIRE_DIR": str(self._root)},
                # Ctrl-C in a terminal goes to the supervisor, which stops the worker in order.
                start_new_session=True,
            )
        finally:
            os.close(log)

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        """Whether it reads and writes, or retries to."""
        port = self.port
        answer = ask_health(port) if port else None
        return answer is not None and answer.get("state") not in {None, "starting", "failed"}

    def stop(self) -> None:
        """Stop it by SIGTERM, then by SIGKILL. Blocks: at most `STOP_S` and a moment."""
        if self._process is None or not self.alive():
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()


def ask_health(port: int) -> dict[str, Any] | None:
    """Return the answer of /healthz; None without one. Blocks: at most 2 s."""
    try:
        with open_here(f"http://127.0.0.1:{port}/healthz", timeout_s=2.0) as answer:
            body = answer.read()
    except HTTPError as error:  # 503: the body has the reason
        body = error.read()
    except OSError:
        return None
    try:
        fields = json.loads(body)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None
