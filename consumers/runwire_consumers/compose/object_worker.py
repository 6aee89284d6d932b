"""Composition of the object worker: pieces from Kafka become artifacts in the object store."""

from __future__ import annotations

import contextlib
import ctypes
import logging
from dataclasses import replace
from pathlib import Path
from typing import Final

from runwire_consumers.compose.workers import pages, signals, worker_options
from runwire_consumers.core.batch import Decoder
from runwire_consumers.core.clock import Deadline, SystemClock
from runwire_consumers.core.health import Health, SelfMetrics
from runwire_consumers.core.patience import Stop
from runwire_consumers.core.worker import Worker
from runwire_consumers.kafka.dead_letters import KafkaDeadLetters
from runwire_consumers.kafka.group_settings import GroupSettings
from runwire_consumers.kafka.source import KafkaSource
from runwire_consumers.kafka.worker_events import WorkerEvents
from runwire_consumers.objects.completion import Completion
from runwire_consumers.objects.finishing import Finishing, Tending, Upkeep
from runwire_consumers.objects.sink import ARTIFACT, CHUNK, ObjectSink, decode_lean
from runwire_consumers.objects.staging import Staging
from runwire_consumers.settings import WorkerSettings
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.connections.s3 import S3Settings
from runwire_store.open import open_store
from runwire_store.part_uploads import part_uploads_of

_log = logging.getLogger("runwire.worker")

# Fetched ahead and not decoded yet. With one batch being written and its successor, the process
# stays within 100 MB of its size at the start (benchmarks/object_routes.py).
QUEUED_BYTES: Final = 8 * 1024 * 1024
MESSAGES_MAX: Final = 8
# Pace of the search for unfinished artifacts of dead workers.
TENDING_S: Final = 300.0
_M_ARENA_MAX: Final = -8  # malloc.h
_ARENAS: Final = 2


def run_objects(
    root: Path, s3: S3Settings | None, settings: WorkerSettings, *, kafka: KafkaSettings
) -> int:
    """Run the worker to the object store until a signal; return the exit status.

    Without `s3` the store is the folder of objects under `root`. Raises: StoreRefused.
    """
    _few_arenas()
    clock, stop, metrics = SystemClock(), Stop(), SelfMetrics()
    store = open_store(s3, root)
    _log.info("artifacts from %s go to %s", kafka.bootstrap_servers, store.uri)
    publish = WorkerEvents(kafka)
    staging = Staging(store, part_uploads=part_uploads_of(store))
    completion = Completion(staging, publish)
    finishing = Finishing(completion, metrics)
    look_s = max(1.0, min(TENDING_S, settings.staging_s, settings.sweep_grace_s))
    tending = Tending(
        staging,
        completion,
        finishing.add,
        staging_s=settings.staging_s,
        grace_s=settings.sweep_grace_s,
        look_s=look_s,
    )
    upkeep = Upkeep(tending.look, look_s)

    def take_over() -> None:
        tending.take_over()
        upkeep.soon()

    group = GroupSettings(
        name=settings.groups(kafka.topic_prefix).objects,
        kinds=(CHUNK, ARTIFACT),
        protocol=settings.group_protocol,
        instance_id=settings.group_instance_id,
        session_timeout_s=settings.session_timeout_s,
        queued_bytes=QUEUED_BYTES,
        messages_max=MESSAGES_MAX,
    )
    health = Health(clock, stuck_after_s=settings.stuck_after_s)
    worker = Worker(
        KafkaSource(kafka, group, metrics=metrics, on_gained=take_over),
        ObjectSink(staging, finishing.add, publish),
        KafkaDeadLetters(kafka, limit=settings.dead_letters_max),
        options=replace(worker_options(settings), overlap=True),
        clock=clock,
        stop=stop,
        metrics=metrics,
        health=health,
        decoder=Decoder(one=decode_lean),
    )
    with signals(stop), pages(health, metrics, settings.metrics_port):
        try:
            return worker.run()
        finally:
            deadline = Deadline(settings.shutdown_s)
            upkeep.close(0.0)
            finishing.close(deadline.left_s)
            store.close()


def _few_arenas() -> None:
    """Make glibc share free memory among threads; no effect with other C libraries.

    With an arena per thread, memory that one thread frees stays in its arena while the next thread
    takes new memory: some ten megabytes more after a few gigabytes.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
