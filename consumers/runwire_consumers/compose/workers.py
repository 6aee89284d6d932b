"""Composition of the worker to ClickHouse: its ends, signals, pages and files."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from runwire_consumers.clickhouse.refusals import DEAD_LETTER
from runwire_consumers.clickhouse.rows import EVENT_TABLES
from runwire_consumers.clickhouse.sink import ClickHouseSink
from runwire_consumers.core.batch import Batch, BatchLimits
from runwire_consumers.core.clock import Deadline, SystemClock
from runwire_consumers.core.dead_letters import DeadLetters, FileDeadLetters
from runwire_consumers.core.errors import LoginRefused, Retryable
from runwire_consumers.core.health import Health, HealthServer, SelfMetrics
from runwire_consumers.core.patience import Stop
from runwire_consumers.core.sink import Refusals, Sink
from runwire_consumers.core.source import Source
from runwire_consumers.core.worker import Worker, WorkerOptions
from runwire_consumers.settings import STATE_FILE, WorkerSettings
from runwire_consumers.spool.journal import IntentJournal
from runwire_consumers.spool.source import SpoolSource
from runwire_disk.descriptors import allow_many_files
from runwire_disk.files import replace_json
from runwire_disk.paths import connection_file, embedded_dir, letters_dir
from runwire_schemas.connections.clickhouse import ClickHouseSettings
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.errors import ConfigError

T = TypeVar("T")
_log = logging.getLogger("runwire.worker")

JOURNAL_DIR = "journal"
LOGIN_RETRY_S = 5.0
# An array of a round has 8 MB; 32 MiB is the most that glibc takes. A round of a million points
# uses some 150 MB.
ARRAY_BYTES_MAX = 32 * 1024 * 1024
KEPT_BYTES_MAX = 192 * 1024 * 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


class LazySink:
    """A sink that is opened at its first use, and again when the address or the login changes.

    The embedded engine may start after the worker, or restart on another port. A login that is
    refused is taken again from the address, where `is_login_renewable` until it is accepted.
    """

    def __init__(
        self,
        address: Callable[[], str],
        open_sink: Callable[[str], Sink],
        *,
        is_login_renewable: bool = False,
    ) -> None:
        self._address = address
        self._is_login_renewable = is_login_renewable
        self._open_sink = open_sink
        self._sink: Sink | None = None
        self._open_address = ""

    def check(self) -> None:
        """Open and check the sink."""
        self._with_sink(lambda sink: sink.check())

    def prepare(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return the batches with their blocks where a sink is open, else as they are."""
        sink = self._sink
        return list(batches) if sink is None else sink.prepare(batches)

    def write_round(self, batches: Sequence[Batch]) -> Refusals:
        """Open the sink if need be and write the batches."""
        return self._with_sink(lambda sink: sink.write_round(batches))

    def write(self, batch: Batch) -> None:
        """Open the sink if need be and write."""
        self._with_sink(lambda sink: sink.write(batch))

    def close(self, deadline: Deadline) -> None:
        """Close what is open."""
        if self._sink is not None:
            self._sink.close(deadline)
            self._sink = None

    def _with_sink(self, action: Callable[[Sink], T]) -> T:
        if self._sink is None:
            self._open_address = self._address()
            self._sink = self._open_sink(self._open_address)
        try:
            return action(self._sink)
        except Retryable:
            if self._is_elsewhere():
                self.close(Deadline(1.0))
            raise
        except LoginRefused as error:
            if not (self._is_login_renewable or self._is_elsewhere()):
                raise
            self.close(Deadline(1.0))
            raise Retryable(LOGIN_RETRY_S, str(error)) from error

    def _is_elsewhere(self) -> bool:
        with contextlib.suppress(Retryable):
            return self._address() != self._open_address
        return False


def configured_url(environ: Mapping[str, str]) -> str | None:
    """Return the URL of ClickHouse with the password that its file holds now; None: embedded.

    Raises: Retryable while the file cannot be read.
    """
    try:
        return ClickHouseSettings.from_environment(environ).url
    except ConfigError as error:
        raise Retryable(LOGIN_RETRY_S, str(error)) from error


def embedded_url(root: Path) -> str:
    """Return the address of the embedded engine.

    Raises: Retryable while `runwire up` has not written it yet.
    """
    path = connection_file(root)
    try:
        return str(json.loads(path.read_text())["url"])
    except (OSError, ValueError, KeyError) as error:
        raise Retryable(
            0.5, f"no ClickHouse yet: {path} is not readable ({error!r}); is `runwire up` running?"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParts:
    """The ends of one worker and its metrics: replace one to compose another worker.

    `overlap`: the source allows polls while its intents are pending.
    """

    source: Source
    sink: Sink
    dead_letters: DeadLetters
    metrics: SelfMetrics
    overlap: bool


def clickhouse_parts(
    root: Path,
    url: Callable[[], str | None],
    settings: WorkerSettings,
    *,
    is_login_renewable: bool = False,
    kafka: KafkaSettings | None = None,
    open_sink: Callable[[str], Sink] = ClickHouseSink,
) -> WorkerParts:
    """Return the parts of the worker to ClickHouse; `open_sink` gets the address.

    The source is Kafka when `kafka` is given, else the spool under `root`; where `url` returns None
    the sink is the embedded engine of `root`.
    Raises: AlreadyRunning when another worker holds the folder.
    """
    metrics = SelfMetrics()
    source: Source
    letters: DeadLetters
    if kafka is None:
        source = _spool_source(root)
        kept = letters_dir(root)
        letters = FileDeadLetters(kept, limit=settings.dead_letters_max)
    else:
        source, letters = _kafka_ends(kafka, settings, metrics)
    return WorkerParts(
        source=source,
        sink=LazySink(
            lambda: url() or embedded_url(root), open_sink, is_login_renewable=is_login_renewable
        ),
        dead_letters=letters,
        metrics=metrics,
        overlap=kafka is not None,
    )


def run_clickhouse(root: Path, settings: WorkerSettings, parts: WorkerParts) -> int:
    """Run the worker to ClickHouse until a signal; return the exit status.

    Its process id and port are written to `worker.json` under `root`.
    """
    allow_many_files()
    _keep_memory()
    clock, stop = SystemClock(), Stop()
    health = Health(clock, stuck_after_s=settings.stuck_after_s)
    worker = Worker(
        parts.source,
        parts.sink,
        parts.dead_letters,
        options=replace(worker_options(settings), overlap=parts.overlap),
        clock=clock,
        stop=stop,
        metrics=parts.metrics,
        health=health,
    )
    with signals(stop), pages(health, parts.metrics, settings.metrics_port) as port:
        _write_state(embedded_dir(root) / STATE_FILE, port)
        return worker.run()


def worker_options(settings: WorkerSettings) -> WorkerOptions:
    """Translate the settings for the loop."""
    limits = BatchLimits(
        age_s=settings.batch_age_s, rows=settings.batch_rows, bytes=settings.batch_bytes
    )
    return WorkerOptions(
        limits=limits,
        retry_max_s=settings.retry_max_s,
        shutdown_s=settings.shutdown_s,
        registry_wait_s=settings.registry_wait_s,
    )


def _kafka_ends(
    kafka: KafkaSettings, settings: WorkerSettings, metrics: SelfMetrics
) -> tuple[Source, DeadLetters]:
    from runwire_consumers.kafka.dead_letters import KafkaDeadLetters
    from runwire_consumers.kafka.group_settings import GroupSettings
    from runwire_consumers.kafka.source import KafkaSource

    group = GroupSettings(
        name=settings.groups(kafka.topic_prefix).clickhouse,
        # Dead letters too: an agent's are in the topic only, a worker's are in the table already.
        kinds=("metric", *EVENT_TABLES, DEAD_LETTER),
        protocol=settings.group_protocol,
        instance_id=settings.group_instance_id,
        session_timeout_s=settings.session_timeout_s,
    )
    letters = KafkaDeadLetters(kafka, limit=settings.dead_letters_max)
    return KafkaSource(kafka, group, metrics=metrics), letters


def _spool_source(root: Path) -> SpoolSource:
    journal = IntentJournal(embedded_dir(root) / JOURNAL_DIR)
    for notice in journal.notices:
        _log.warning("%s", notice)
    return SpoolSource(root, journal)


@contextlib.contextmanager
def signals(stop: Stop) -> Iterator[None]:
    """Make SIGTERM and SIGINT request a stop, as `Stop` describes."""

    def handle(*_: object) -> None:
        stop.signal()

    old = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def pages(health: Health, metrics: SelfMetrics, port: int) -> Iterator[int]:
    """Serve /healthz and /metrics; yield the port, 0 when they are off."""
    if port == 0:
        yield 0
        return
    try:
        server = HealthServer(health, metrics, port)
    except OSError as error:
        server = HealthServer(health, metrics, 0)
        _log.warning("port %d is not available (%s); /metrics is on %d", port, error, server.port)
    try:
        yield server.port
    finally:
        server.close()


def _write_state(path: Path, port: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_json(path, {"pid": os.getpid(), "metrics_port": port})


def _keep_memory() -> None:
    """Make glibc keep the memory of one round for the next; no effect with other C libraries.

    By default it gives the arrays of each round back to the kernel, which clears every page of the
    next round's: half the time of sorting a million points.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, ARRAY_BYTES_MAX)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES_MAX)
