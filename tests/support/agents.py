"""Trainers and agents as processes of a test, with their logs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from runwire_disk.agents.state import AgentState, read_states
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.connections.s3 import S3Settings

# Logs as its arguments say and ends in order; the acks file counts the calls that returned.
TRAINER = """
import os, sys, time
import runwire
steps, pause_s, path = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
run = runwire.init("ships", config={"lr": 0.1})
with open(path, "wb", buffering=0) as acks:
    for step in range(steps):
        run.log({"a": step, "b": step / 8}, step)
        acks.write(b".")
        time.sleep(pause_s)
run.finish(timeout=float(sys.argv[4]))
"""

# Becomes another program of this interpreter with these limits on open files.
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


class Agents:
    """The processes of one data root; `close` ends what is left of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes: list[subprocess.Popen[bytes]] = []
        self.log = root / "agent.test.log"
        self.acks = root / "acks"

    def agent(
        self,
        kafka: KafkaSettings,
        *,
        idle_s: float = 0.3,
        files: tuple[int, int] | None = None,
        **environ: str,
    ) -> subprocess.Popen[bytes]:
        """An agent of `kafka`, as `init` would start one, but a child of the test.

        `files` are its soft and hard limits on open files.
        """
        words = ["-m", "runwire_agent", "--dir", str(self.root), "--exit-when-idle-s", str(idle_s)]
        if files is not None:
            words = ["-c", LIMITED, *map(str, files), *words]
        return self._start(words, kafka.environment() | {"RUNWIRE_AGENT_STAY_S": "60"} | environ)

    def local_agent(
        self, *, idle_s: float = 0.3, s3: S3Settings | None = None, **environ: str
    ) -> subprocess.Popen[bytes]:
        """An agent without brokers."""
        words = ["-m", "runwire_agent", "--dir", str(self.root), "--exit-when-idle-s", str(idle_s)]
        keys = {} if s3 is None else s3.environment()
        return self._start(words, keys | {"RUNWIRE_AGENT_STAY_S": "60"} | environ)

    def trainer(
        self, kafka: KafkaSettings, *, steps: int, pause_s: float = 0.0, mode: str = "none",
        wait_s: float = 0.0,
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        words = ["-c", TRAINER, str(steps), str(pause_s), str(self.acks), str(wait_s)]
        environ = {"RUNWIRE_DIR": str(self.root), "RUNWIRE_AGENT": mode}
        return self._start(words, kafka.environment() | environ | {"RUNWIRE_CAPTURE_GIT": "0"})

    @property
    def acked(self) -> int:
        """Number of calls of the trainer that returned."""
        return self.acks.stat().st_size if self.acks.exists() else 0

    def state(self) -> AgentState:
        """The state file of the one agent of this root, as `runwire status` reads it."""
        (state,) = read_states(self.root).values() or [AgentState(key="")]
        return state

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def _start(self, words: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *words], env=os.environ | environ, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process
