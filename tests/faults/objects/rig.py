"""Trainers, agents and object workers around one store: only what was started here is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from faults.kafka.pipeline import WorkerProcess
from faults.objects import ledger
from faults.objects.plain import PlainFolder, PlainS3, PlainStore
from runwire_disk.agents.state import read_states
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.connections.s3 import S3Settings
from runwire_schemas.topics import topic_name
from support.faults import UnexpectedError, tail, wait_for

TRAINER = Path(__file__).parent / "trainer.py"
TESTS = Path(__file__).parents[2]
CONTENT_KINDS = ("chunk", "artifact")
_REQUEST_S = 10.0
# An agent for which the hour is over that it leaves a half copied content to its trainer.
IMPATIENT = (
    "import sys; from runwire_disk.outbox import requests; requests.UNCOMMITTED_S = -1.0; "
    "from runwire_agent.__main__ import main; sys.exit(main(sys.argv[1:]))"
)


@dataclass
class Calls:
    """Plans what trainers log; every name of a test is used once."""

    made: int = 0

    def call(self, kind: str, size: int = 0, **told: Any) -> dict[str, Any]:
        """One call for `trainer.py`; its label is the artifact's name unless one is given."""
        self.made += 1
        about = {"number": self.made, "label": f"{kind}-{self.made}", "kind": kind, "bytes": size}
        return about | told


@dataclass
class Rig:
    """Everything around one store; use as a context manager, which ends what is left.

    `route` is the way of contents; without `kafka` everything is embedded, without `s3` the store
    is the folder of the first data root. Where forgers are about, `is_strict` is off: what they
    began need not end.
    """

    folder: Path
    base: Path
    route: str
    kafka: KafkaSettings | None = None
    s3: S3Settings | None = None
    session_s: float = 6.0
    is_strict: bool = True
    programs: list[WorkerProcess] = field(default_factory=list)
    calls: Calls = field(default_factory=Calls)

    def __enter__(self) -> Rig:
        self.root.mkdir(parents=True)
        self._watcher = None
        if self.kafka is not None:
            about = {"group.id": self.group, "log_level": 0}
            self._watcher = Consumer({**self.kafka.client_config(), **about})
        return self

    def __exit__(self, *_: object) -> None:
        for program in self.programs:
            program.process.kill()
            program.process.wait()
        if self._watcher is not None:
            self._watcher.close()

    @property
    def root(self) -> Path:
        """The data root of trainers and agents, unless they get another one."""
        return self.folder / "root"

    @property
    def group(self) -> str:
        """The object workers' consumer group."""
        return f"{self.kafka.topic_prefix if self.kafka else ''}.objects"

    @property
    def stop_file(self) -> Path:
        """Trainers end in order once it is there."""
        return self.folder / "stop"

    def plain(self) -> PlainStore:
        """The store without our code; the caller closes it."""
        return PlainFolder(self.root / "objects") if self.s3 is None else PlainS3(self.s3)

    def start_trainer(
        self,
        calls: list[dict[str, Any]],
        *,
        run_id: str = "run",
        root: Path | None = None,
        route: str = "",
        **told: Any,
    ) -> WorkerProcess:
        """Start a trainer; it waits for `stop_file` after its calls."""
        number = len(self.programs)
        about = {
            "run_id": run_id,
            "calls": calls,
            "base": str(self.base),
            "work": str(self.folder / "work"),
            "ledger": str(self.folder / f"{number:03d}.ledger"),
            "stop": str(self.stop_file),
            **told,
        }
        environ = {
            "RUNWIRE_DIR": str(root or self.root),
            "RUNWIRE_AGENT": "none",
            "RUNWIRE_CAPTURE_GIT": "0",
            "RUNWIRE_ARTIFACT_ROUTE": (route or self.route) if self.kafka else "auto",
            "PYTHONPATH": str(TESTS),
            **self._keys(route),
        }
        return self._start("trainer", [str(TRAINER), json.dumps(about)], environ)

    def start_agent(
        self,
        *,
        root: Path | None = None,
        idle_s: float = 1.0,
        program: str = "",
        route: str = "",
        **environ: str,
    ) -> WorkerProcess:
        """Start an agent as `init` would, a child of the test; it ends when all is delivered.

        `program` is Python that has it do something else.
        """
        begin = ["-c", program] if program else ["-m", "runwire_agent"]
        words = ["--dir", str(root or self.root), "--exit-when-idle-s", str(idle_s)]
        told = {"RUNWIRE_AGENT_STAY_S": "120", **self._keys(route), **environ}
        return self._start("agent", [*begin, *words], told)

    def start_worker(self, *, member: str = "", **settings: object) -> WorkerProcess:
        """Start an object worker; settings are those of RUNWIRE_WORKER_*."""
        assert self.s3 is not None
        told: dict[str, object] = {
            "batch_age_s": 0.1,
            "retry_max_s": 0.5,
            "objects_group": self.group,
            "session_timeout_s": self.session_s,
            "group_instance_id": member,
            **settings,
        }
        environ = {f"RUNWIRE_WORKER_{name.upper()}": str(value) for name, value in told.items()}
        words = ["-m", "runwire_consumers", "objects", "--metrics-port", "0"]
        words += ["--dir", str(self.folder / f"worker-{len(self.programs)}")]
        return self._start("worker", words, self.s3.environment() | environ)

    def start_history(self, url: str) -> WorkerProcess:
        """Start the worker that brings events to ClickHouse."""
        environ = {
            "RUNWIRE_WORKER_BATCH_AGE_S": "0.1",
            "RUNWIRE_WORKER_GROUP": f"{self.group}.history",
            "RUNWIRE_WORKER_SESSION_TIMEOUT_S": str(self.session_s),
            "RUNWIRE_CLICKHOUSE_URL": url,
        }
        words = ["-m", "runwire_consumers", "clickhouse", "--metrics-port", "0"]
        return self._start("history", [*words, "--dir", str(self.root)], environ)

    def ledgers(self) -> list[Path]:
        """The ledgers of all trainers, the newest last."""
        return sorted(self.folder.glob("*.ledger"))

    def written(self) -> dict[str, ledger.Call]:
        """What all trainers wrote into their ledgers."""
        return ledger.read(self.ledgers())

    def acknowledged(self) -> int:
        """How many calls were acknowledged."""
        return sum(call.is_acknowledged for call in self.written().values())

    def outbox(self, root: Path | None = None) -> list[str]:
        """The folders of the outbox."""
        folder = (root or self.root) / "outbox"
        return sorted(each.name for each in folder.iterdir()) if folder.exists() else []

    def wait(self, what: str, ready: Callable[[], bool], *, every_s: float = 0.05) -> None:
        """Wait for a state. Raises: UnexpectedError with the ends of all logs."""
        try:
            wait_for(what, ready, every_s=every_s)
        except UnexpectedError as error:
            ends = "\n".join(tail(program.log) for program in self.programs[-5:])
            raise UnexpectedError(f"{error}; outbox {self.outbox()}; {ends}") from error

    def lag(self) -> int:
        """Messages about contents that the object workers have not finished; -1 if unknown."""
        assert self.kafka is not None
        assert self._watcher is not None
        found = 0
        try:
            for kind in CONTENT_KINDS:
                name = topic_name(kind, self.kafka.topic_prefix)
                known = self._watcher.list_topics(name, timeout=_REQUEST_S).topics[name]
                places = [TopicPartition(name, number) for number in known.partitions]
                for place in self._watcher.committed(places, timeout=_REQUEST_S):
                    _, end = self._watcher.get_watermark_offsets(place, timeout=_REQUEST_S)
                    found += end - max(0, place.offset)
        except KafkaException:
            return -1
        return found

    def sent(self) -> int:
        """Messages about contents that the brokers have; -1 if unknown."""
        assert self.kafka is not None
        assert self._watcher is not None
        name = topic_name("chunk", self.kafka.topic_prefix)
        try:
            known = self._watcher.list_topics(name, timeout=_REQUEST_S).topics[name]
            places = [TopicPartition(name, number) for number in known.partitions]
            return sum(
                self._watcher.get_watermark_offsets(p, timeout=_REQUEST_S)[1] for p in places
            )
        except KafkaException:
            return -1

    def end_trainers(self) -> None:
        """Let the trainers end in order."""
        self.stop_file.touch()
        for program in self.programs:
            if program.log.name.startswith("trainer") and program.is_running:
                assert program.wait_for_end() == 0, tail(program.log)

    def drain(self) -> None:
        """Bring everything where it belongs; everybody ends in order."""
        self.end_trainers()
        running = [p for p in self.programs if p.is_running and p.log.name.startswith("agent")]
        # One that was leaving when the last trainer died has not looked again: another follows.
        for agent in [*running, None]:
            following = agent or self.start_agent()
            assert following.wait_for_end() == 0, following.log_text[-3000:]
        if self.kafka is not None and self.s3 is not None and self.route == "kafka":
            workers = [p for p in self.programs if p.is_running and p.log.name.startswith("worker")]
            workers = workers or [self.start_worker(member="one")]
            self.wait("the object workers to take everything", lambda: self.lag() == 0)
            self.wait("all artifacts to be finished", self._is_finished)
            for worker in workers:
                worker.stop()

    def _is_finished(self) -> bool:
        store = self.plain()
        try:
            there = "".join(store.sizes("runs/"))
            wanted = [c.artifact for c in self.written().values() if c.is_acknowledged]
            waiting = [k for k in store.sizes("staging/") if k.endswith("/manifest.json")]
        finally:
            store.close()
        return all(artifact in there for artifact in wanted) and not (waiting and self.is_strict)

    def trouble(self, root: Path | None = None) -> str:
        """What the agents of a data root say of why artifacts wait."""
        states = read_states(root or self.root).values()
        return " ".join(str(state.uploads.get("sentence", "")) for state in states)

    def count_in_logs(self, sentence: str) -> int:
        """Number of times that a sentence is in the logs."""
        return sum(program.log_text.count(sentence) for program in self.programs)

    def _keys(self, route: str) -> dict[str, str]:
        """The store's keys, for those who go there themselves."""
        is_direct = (route or self.route) == "direct"
        return self.s3.environment() if self.s3 is not None and is_direct else {}

    def _start(self, name: str, words: list[str], environ: dict[str, str]) -> WorkerProcess:
        log = self.folder / f"{name}-{len(self.programs)}.log"
        known = self.kafka.environment() if self.kafka else {}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *words], env=os.environ | known | environ, stdout=out, stderr=out
            )
        self.programs.append(WorkerProcess(process, log))
        return self.programs[-1]
