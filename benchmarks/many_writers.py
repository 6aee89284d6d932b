"""Agent of many writers that log once a second: CPU, syncs and latency, quiet disk and busy one.

Latency is the broker's time of a record minus the time of the call. With `--against FOLDER`, a
checkout of another version, its agent ships the same load just before, for a ratio of one run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, TopicPartition

from brokers import broker, make_topics
from measure import figure, machine, percentile
from runwire.metrics.log import MetricLog
from runwire_disk.descriptors import allow_many_files
from runwire_disk.host import boot_id, hostname, pid_namespace
from runwire_disk.spool.format import Meta
from runwire_disk.spool.writer import SpoolWriter
from runwire_schemas import codec
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.events import MetricBatch
from runwire_schemas.topics import topic_name

NAMES = 10
SIZES = (100, 400, 1000)
WARM_S, MEASURED_S, END_S = 6.0, 20.0, 120.0
PATIENCE_S = 15.0  # so late may the last record be
# Counts its syncs into a file; the rest is `python -m runwire_agent`.
COUNTING = """
import atexit, os, sys
count, sync = [0], os.fdatasync
def counted(fd):
    count[0] += 1
    sync(fd)
os.fdatasync = counted
from runwire_agent.__main__ import main
path = sys.argv.pop(1)
atexit.register(lambda: open(path, "w").write(str(count[0])))
sys.exit(main())
"""


def write(root: Path, kafka: KafkaSettings, count: int, seconds: float) -> None:
    """Be `count` writers that log `NAMES` floats once a second, spread over the second."""
    allow_many_files()
    logs = [_log(root, kafka) for _ in range(count)]
    begin_s = time.monotonic()
    for second in range(int(seconds)):
        for index, log in enumerate(logs):
            ahead_s = begin_s + second + index / count - time.monotonic()
            if ahead_s > 0.002:
                time.sleep(ahead_s)
            log.log({f"metric/{n}": second + n / 8 for n in range(NAMES)}, second)


def _log(root: Path, kafka: KafkaSettings) -> MetricLog:
    meta = Meta(
        writer=uuid.uuid4().hex,
        role="trainer",
        project="bench",
        run_id=f"run-{uuid.uuid4().hex[:8]}",
        attempt="1",
        rank=0,
        world_size=1,
        host=hostname(),
        boot_id=boot_id(),
        pid_ns=pid_namespace(),
        pid=os.getpid(),
        started_at_ns=time.time_ns(),
        route="kafka",
        destination=kafka.public(),
    )

    def fail(_kind: str, error: BaseException, **_words: Any) -> None:
        raise error

    return MetricLog(SpoolWriter.create(root, meta), report=fail, on_text=lambda *_: None)


@contextmanager
def busy_disk(folder: Path) -> Iterator[None]:
    """Write and sync 1 MiB at a time, as checkpoints and other programs of a machine do."""
    stop = threading.Event()

    def churn() -> None:
        block = os.urandom(1 << 20)
        with (folder / "churn").open("wb", buffering=0) as file:
            while not stop.wait(0.01):
                file.seek(0)
                file.write(block)
                os.fsync(file.fileno())

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def sync_ms(folder: Path) -> float:
    """Return the median of one fdatasync of 100 bytes."""
    took: list[float] = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 100)
            begin_s = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - begin_s)
    return 1000 * statistics.median(took)


def measure(
    folder: Path, kafka: KafkaSettings, count: int, source: Path | None
) -> dict[str, float]:
    """Return CPU share, syncs per second and latencies of an agent with `count` writers."""
    environ = os.environ | kafka.environment()
    if source is not None:
        roots = [str(source / name) for name in ("schemas", "producer")]
        environ["PYTHONPATH"] = os.pathsep.join(roots)
    writers = multiprocessing.Process(
        target=write, args=(folder, kafka, count, WARM_S + MEASURED_S + 3)
    )
    writers.start()
    counter = folder / "syncs"
    words = [sys.executable, "-c", COUNTING, str(counter), "--dir", str(folder)]
    agent = subprocess.Popen(words, env=environ, stderr=(folder / "agent.err").open("wb"))
    try:
        time.sleep(WARM_S)
        process, begin_s = psutil.Process(agent.pid), time.monotonic()
        before, from_ms = process.cpu_times(), time.time() * 1000
        time.sleep(MEASURED_S)
        after, took_s = process.cpu_times(), time.monotonic() - begin_s
        to_ms = time.time() * 1000
        # Where nothing arrived at all the figure is how long it was waited for.
        delays = sorted(latencies(kafka, from_ms, to_ms)) or [MEASURED_S + PATIENCE_S]
    finally:
        agent.terminate()
        agent.wait(END_S)
        writers.join()
    cpu_s = after.user + after.system - before.user - before.system
    return {
        "cpu": 100 * cpu_s / took_s,
        "syncs": int(counter.read_text()) / (WARM_S + MEASURED_S),
        "p50": percentile(delays, 0.5),
        "p99": percentile(delays, 0.99),
        "share": len(delays) / (count * MEASURED_S),
    }


def latencies(kafka: KafkaSettings, from_ms: float, to_ms: float) -> list[float]:
    """Return seconds from each call in the interval to its record in the topic."""
    topic = topic_name("metric", kafka.topic_prefix)
    consumer = Consumer(
        kafka.client_config() | {"group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    )
    partitions = consumer.list_topics(topic).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    delays: list[float] = []
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        for message in consumer.consume(1000, 1.0):
            batch = codec.decode(message.value())
            assert isinstance(batch, MetricBatch)
            at_ms = message.timestamp()[1]
            delays += [(at_ms - ms) / 1000 for ms in batch.call_at_ms if from_ms <= ms < to_ms]
    consumer.close()
    return delays


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="checkout of the version to compare with")
    parser.add_argument("--writers", type=int, nargs="*", default=SIZES)
    parser.add_argument("--disk", choices=("quiet", "busy"), nargs="*", default=("quiet", "busy"))
    args = parser.parse_args()
    print(machine())
    versions = [("before", args.against)] if args.against else []
    for disk in args.disk:
        for count in args.writers:
            found = {}
            for name, source in [*versions, ("now", None)]:
                with broker() as brokers, tempfile.TemporaryDirectory() as made:
                    kafka = replace(brokers, topic_prefix=f"bench{uuid.uuid4().hex[:8]}")
                    make_topics(kafka, kafka.topic_prefix)
                    with busy_disk(Path(made)) if disk == "busy" else nullcontext():
                        took_ms = sync_ms(Path(made))
                        found[name] = measure(Path(made), kafka, count, source)
                print(name, f"one sync {took_ms:.2f} ms", found[name], flush=True)
            report(f"{count} writers, {disk} disk", found)


def report(label: str, found: dict[str, dict[str, float]]) -> None:
    """Print one line per figure; the ratio is to the other version, else to one sync a second."""
    now, before = found["now"], found.get("before")
    for key, unit, bar in (
        ("cpu", "% of a core", "<= 25" if label.startswith("1000") else ""),
        ("syncs", "fdatasyncs/s", ""),
        ("p50", "s", ""),
        ("p99", "s", "<= 3" if label.startswith("1000") else ""),
    ):
        floor = f"before {before[key]:.3g}" if before else "a call a second and writer"
        base = before[key] if before else 1.0
        figure(f"agent {key}, {label}", now[key], unit, floor=floor, ratio=now[key] / base, bar=bar)


if __name__ == "__main__":
    main()
