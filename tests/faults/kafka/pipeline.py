"""Topics, a database and the workers between them: only what was started here is killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from faults.kafka.feed import Feed
from runwire_consumers.clickhouse.client import connect
from runwire_consumers.clickhouse.refusals import DEAD_LETTER
from runwire_consumers.clickhouse.rows import EVENT_TABLES
from runwire_consumers.core.source import Span
from runwire_consumers.kafka.partition import parse_intent
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import topic_name
from support import harness_worker
from support.faults import DETECTOR, PATIENCE_S, UnexpectedError, tail, wait_for
from support.servers import Cluster

KINDS = ("metric", *EVENT_TABLES, DEAD_LETTER)  # what the worker reads
# Where we started the broker it allows short sessions; others insist on six seconds.
SESSION_S = {"native": 3.0}
OTHER_SESSION_S = 6.0
_REQUEST_S = 10.0
# Of a record: how often `batches` got its row, merged or not.
_BATCH_DETECTOR = """
CREATE TABLE IF NOT EXISTS inserted_batches (writer UInt64, batch_seq Int64, n UInt64, points UInt64)
ENGINE = SummingMergeTree ORDER BY (writer, batch_seq)
SETTINGS non_replicated_deduplication_window = 10000;
CREATE MATERIALIZED VIEW IF NOT EXISTS inserted_batches_mv TO inserted_batches AS
SELECT writer, batch_seq, count() AS n, sum(points) AS points FROM batches GROUP BY writer, batch_seq
"""  # noqa: E501


@dataclass
class WorkerProcess:
    """One worker, with a log of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def log_text(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL. Raises: UnexpectedError when it ended before."""
        self.check()
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM. Raises: UnexpectedError unless it leaves in order."""
        self.check()
        self.process.terminate()
        status = self.process.wait(PATIENCE_S)
        # A signal in the first moments finds no handler yet.
        if status not in (0, -signal.SIGTERM):
            raise UnexpectedError(f"the worker left with {status}; {tail(self.log)}")

    def pause(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def wait_for_end(self) -> int:
        """Wait until it ends by itself; how."""
        wait_for("the worker to end", lambda: not self.is_running, log=self.log)
        return self.process.returncode

    def check(self) -> None:
        """Raises: UnexpectedError when it ended by itself."""
        if not self.is_running:
            code = self.process.returncode
            raise UnexpectedError(f"the worker ended by itself with {code}; {tail(self.log)}")


class Pipeline:
    """The topics of one prefix and their workers; use as a context manager, which ends these."""

    def __init__(
        self,
        cluster: Cluster,
        prefix: str,
        url: str,
        folder: Path,
        *,
        partitions: int = 4,
        copies: int = 1,
        unsafe: bool = False,
        group_protocol: str = "classic",
    ) -> None:
        self.cluster, self.prefix, self.url = cluster, prefix, url
        self.kafka: KafkaSettings = replace(cluster.settings, topic_prefix=prefix)
        self.topic = topic_name("metric", prefix)
        self.group = f"{prefix}.worker"
        self.workers: list[WorkerProcess] = []
        self._folder, self._partitions, self._copies = folder, partitions, copies
        self._unsafe, self._group_protocol = unsafe, group_protocol
        self.session_s = SESSION_S.get(cluster.server.kind, OTHER_SESSION_S)
        self.admin = AdminClient({**self.kafka.client_config(), "log_level": 0})
        self._watcher = Consumer(
            {**self.kafka.client_config(), "group.id": self.group, "log_level": 0}
        )

    def __enter__(self) -> Pipeline:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.make_topics(KINDS)
        self.client = connect(self.url)
        for statement in f"{DETECTOR};\n{_BATCH_DETECTOR}".split(";\n"):
            self.client.command(statement)
        self.feed = Feed(self.kafka, self.topic)
        return self

    def __exit__(self, *_: object) -> None:
        self.feed.halt()
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()
        self.client.close()
        self._watcher.close()

    def make_topics(self, kinds: Iterable[str]) -> None:
        """Create topics and wait until every broker can lead them."""
        config = {
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": "20971520",
            "min.insync.replicas": str(max(1, self._copies - 1)),
        }
        new = [
            NewTopic(
                topic_name(kind, self.prefix),
                self._partitions if kind == "metric" else 1,
                self._copies,
                config=config,
            )
            for kind in kinds
        ]
        for future in self.admin.create_topics(new).values():
            future.result()
        wait_for("the topics", lambda: all(self._is_led(topic.topic) for topic in new))

    def drop_topic(self) -> None:
        """Delete the topic of points and wait until it is gone."""
        self.admin.delete_topics([self.topic])[self.topic].result()
        wait_for("the topic to go", lambda: not self._is_led(self.topic))

    def start_worker(
        self, *, kill_at: str = "", url: str = "", **settings: object
    ) -> WorkerProcess:
        """Start one more worker; settings are those of RUNWIRE_WORKER_*."""
        told: dict[str, object] = {
            "batch_age_s": 0.1,
            "retry_max_s": 0.5,
            "group": self.group,
            "session_timeout_s": self.session_s,
            "group_protocol": self._group_protocol,
            **settings,
        }
        environ = {
            **os.environ,
            **harness_worker.environment(),
            **self.kafka.environment(),
            "RUNWIRE_CLICKHOUSE_URL": url or self.url,
            **{f"RUNWIRE_WORKER_{name.upper()}": str(value) for name, value in told.items()},
        }
        number = len(self.workers)
        log = self._folder / f"worker-{number}.log"
        arguments = ("--dir", str(self._folder / f"root-{number}"))
        with log.open("wb") as out:
            process = subprocess.Popen(
                harness_worker.command(*arguments, kill_at=kill_at, unsafe=self._unsafe),
                env=environ,
                stdout=out,
                stderr=out,
            )
        self.workers.append(WorkerProcess(process, log))
        return self.workers[-1]

    @property
    def running(self) -> list[WorkerProcess]:
        """The workers that run."""
        return [worker for worker in self.workers if worker.is_running]

    def count(self, query: str) -> int:
        """The one number that a query answers with."""
        return int(self.client.query(query).first_row[0])

    def stored(self) -> int:
        """Points in the store, each once."""
        return self.count("SELECT count() FROM metrics FINAL")

    def offsets(self) -> dict[int, tuple[int, Span | None]]:
        """What the group has committed: by partition the offset and the intent there."""
        places = [TopicPartition(self.topic, n) for n in range(self._partitions)]
        found = self._watcher.committed(places, timeout=_REQUEST_S)
        return {p.partition: (max(0, p.offset), parse_intent(p.metadata)[1]) for p in found}

    def members(self) -> set[str]:
        """Ids of the group's members."""
        future = self.admin.describe_consumer_groups([self.group])[self.group]
        return {member.member_id for member in future.result().members}

    def is_drained(self) -> bool:
        """Whether everything in the topic is committed and no intent is left."""
        try:
            committed = self.offsets()
            for number, (offset, intent) in committed.items():
                place = TopicPartition(self.topic, number)
                _, end = self._watcher.get_watermark_offsets(place, timeout=_REQUEST_S)
                if intent is not None or offset != end:
                    return False
        except KafkaException:
            return False
        return True

    def wait(self, what: str, ready: Callable[[], bool], *, every_s: float = 0.1) -> None:
        """Wait for a state. Raises: UnexpectedError when it does not come, with all logs' ends."""
        try:
            wait_for(what, ready, every_s=every_s)
        except UnexpectedError as error:
            ends = "\n".join(tail(worker.log) for worker in self.workers[-4:])
            raise UnexpectedError(f"{error}; offsets {self.offsets()}; {ends}") from error

    def wait_drained(self) -> None:
        """Wait until everything in the topic is stored and committed."""
        self.wait("everything to be committed", self.is_drained)

    def wait_progress(self, points: int = 1) -> None:
        """Wait until N more points are stored."""
        before = self.stored()
        self.wait("more points", lambda: self.stored() >= before + points)

    def intents(self) -> dict[int, Span]:
        """Batches that are announced and not committed, by partition."""
        return {number: span for number, (_, span) in self.offsets().items() if span}

    def count_in_logs(self, sentence: str) -> int:
        """Number of times that a sentence is in the workers' logs."""
        return sum(worker.log_text.count(sentence) for worker in self.workers)

    def _is_led(self, topic: str) -> bool:
        known = self.admin.list_topics(timeout=_REQUEST_S).topics.get(topic)
        return (
            known is not None
            and known.error is None
            and all(partition.leader >= 0 for partition in known.partitions.values())
        )
