"""Distinct source files that run for one checkpoint and for one Kafka record.

A reader who follows a fault through the code opens these files. The first is counted from
`save_checkpoint` to the request in the outbox and on to the published manifest, the second from
the poll to the inserted Native block, in a worker that is warm.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from confluent_kafka import Producer

import runwire
from brokers import topics
from embedded import engine
from kafka_ingest import value
from runwire_agent.sync.outbox import OutboxSync
from runwire_consumers.compose.workers import clickhouse_parts, worker_options
from runwire_consumers.core.clock import SystemClock
from runwire_consumers.core.health import Health
from runwire_consumers.core.patience import Stop
from runwire_consumers.core.worker import Worker
from runwire_consumers.settings import from_environment
from runwire_schemas.connections import kafka
from runwire_schemas.topics import topic_name

ROOT = Path(__file__).resolve().parents[1]
SOURCES = tuple(str(ROOT / folder) for folder in ("producer", "schemas", "consumers"))
NEW_LOCALS = 2  # CO_NEWLOCALS: a function, not the body of a module or class
WAIT_S = 60.0


class Trace:
    """Source files whose functions run in any thread while `is_on`."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.is_on = False

    def note(self, frame: FrameType, event: str, _arg: Any) -> None:
        code = frame.f_code
        is_ours = self.is_on and event == "call" and code.co_flags & NEW_LOCALS
        if is_ours and code.co_filename.startswith(SOURCES):
            self.files.add(str(Path(code.co_filename).relative_to(ROOT)))


@contextmanager
def tracing() -> Iterator[Trace]:
    """Watch this thread and those that it starts."""
    trace = Trace()
    threading.setprofile(trace.note)
    sys.setprofile(trace.note)
    try:
        yield trace
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def trace_checkpoint() -> tuple[set[str], set[str]]:
    """Return the files up to the request in the outbox, and those up to the manifest."""
    with tempfile.TemporaryDirectory() as folder, tracing() as trace:
        settings = runwire.Settings(dir=folder, agent="none")
        run = runwire.init(settings=settings)
        sync = OutboxSync(settings)
        model = torch.nn.Linear(4, 4)
        trace.is_on = True
        run.save_checkpoint(step=1, model=model).wait()
        called, trace.files = trace.files, set()
        problem = sync.deliver(WAIT_S, lambda _: None)
        trace.is_on = False
        assert not problem, problem
        sync.close()
        run.finish()
        return called, trace.files


def trace_record() -> set[str]:
    """Return the files of one record of 1,000 points, the second that the worker reads."""
    import numpy as np

    with topics() as environ, engine() as (root, client), tracing() as trace:
        address = kafka.from_environment(environ)
        assert address is not None
        settings = from_environment(environ)
        parts = clickhouse_parts(root, lambda: None, settings, kafka=address)
        stop, clock = Stop(), SystemClock()
        worker = Worker(
            parts.source,
            parts.sink,
            parts.dead_letters,
            options=worker_options(settings),
            clock=clock,
            stop=stop,
            metrics=parts.metrics,
            health=Health(clock),
        )
        producer = Producer({"bootstrap.servers": address.bootstrap_servers})
        topic, rng = topic_name("metric", address.topic_prefix), np.random.default_rng(1)
        values = [value(0, number, rng) for number in (0, 1)]

        def stored() -> int:
            return int(client.command("SELECT count() FROM runwire.v_metrics"))

        def feed() -> None:
            for number, data in enumerate(values):
                trace.is_on = number == 1
                producer.produce(topic, data, b"0" * 32)
                producer.flush(WAIT_S)
                wait_until(lambda wanted=1000 * (number + 1): stored() == wanted)
            trace.is_on = False
            stop.is_requested = True

        feeder = threading.Thread(target=feed)
        feeder.start()
        worker.run()
        feeder.join()
        return trace.files


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for a condition. Raises: TimeoutError."""
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError("the worker stored nothing")
        time.sleep(0.1)


def main() -> None:
    """Print the counts, and with -v the files."""
    called, published = trace_checkpoint()
    counts = {
        "save_checkpoint to the request in the outbox": called,
        "request to the published manifest": published,
        "both": called | published,
        "Kafka record to its Native block": trace_record(),
    }
    for name, files in counts.items():
        print(json.dumps({"path": name, "files": len(files)}), flush=True)
        if "-v" in sys.argv:
            print("\n".join(f"  {file}" for file in sorted(files)))


if __name__ == "__main__":
    main()
