"""Cost of an agent that ships 100,000 points/s, and its speed when it drains a full spool."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

import runwire
from brokers import topics
from measure import figure, three_digits
from runwire_agent.ship.broker import Failure, Message
from runwire_agent.ship.kafka import KafkaBroker
from runwire_agent.ship.shipper import IN_FLIGHT_BYTES_MAX
from runwire_disk.paths import spool_dir
from runwire_disk.spool.format import read_cursor
from runwire_schemas.connections.kafka import from_environment

NAMES = 10
CALLS_PER_S = 10_000
STEADY_S = 15.0
OUTAGE_POINTS = 10_000_000
PATIENCE_S = 300.0


def train(root: str, calls: int, calls_per_s: float) -> None:
    """Log `calls` times; with a rate, evenly in bursts of a millisecond."""
    run = runwire.init("bench", dir=root, settings=runwire.Settings(agent="none"))
    values = {f"metric/{n}": n * 1.25 for n in range(NAMES)}
    begin_s = time.perf_counter()
    for call in range(calls):
        values["metric/0"] = call * 0.5
        run.log(values, step=call)
        if calls_per_s and call % 10 == 0:
            ahead_s = call / calls_per_s - (time.perf_counter() - begin_s)
            if ahead_s > 0:
                time.sleep(ahead_s)
    run.finish(timeout=PATIENCE_S if calls_per_s else 0.0)


@contextmanager
def agent(root: Path, environ: dict[str, str]) -> Iterator[psutil.Process]:
    """Run an agent for the destination in `environ`."""
    command = [sys.executable, "-m", "runwire_agent", "--dir", str(root)]
    process = subprocess.Popen(command, env=os.environ | environ)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def steady(root: Path, environ: dict[str, str]) -> tuple[float, float, float]:
    """Return CPU seconds per second, peak resident bytes and points per second while it ships."""
    calls = int(CALLS_PER_S * STEADY_S)
    with agent(root, environ) as process:
        time.sleep(1.0)
        trainer = multiprocessing.Process(target=train, args=(str(root), calls, CALLS_PER_S))
        begin_s, begin_cpu_s, resident = time.perf_counter(), cpu_s(process), 0
        trainer.start()
        while trainer.is_alive():
            resident = max(resident, process.memory_info().rss)
            trainer.join(0.2)
        took_s = time.perf_counter() - begin_s
        return (cpu_s(process) - begin_cpu_s) / took_s, resident, calls * NAMES / took_s


def drain(root: Path, environ: dict[str, str]) -> tuple[float, float]:
    """Return points per second and peak resident bytes of an agent that drains a full spool."""
    trainer = multiprocessing.Process(target=train, args=(str(root), OUTAGE_POINTS // NAMES, 0))
    trainer.start()
    trainer.join()
    begin_s, resident = time.perf_counter(), 0
    with agent(root, environ) as process:
        folders = [f for f in spool_dir(root).iterdir() if not f.name.startswith(".")]
        (folder,) = (f for f in folders if f.is_dir() and "agent" not in f.name)
        while folder.exists() and read_cursor(folder).accepted < OUTAGE_POINTS:
            if time.perf_counter() - begin_s > PATIENCE_S:
                raise SystemExit(f"the spool was not drained within {PATIENCE_S:.0f} s")
            resident = max(resident, process.memory_info().rss)
            time.sleep(0.05)
        return OUTAGE_POINTS / (time.perf_counter() - begin_s), resident


def produce_floor(environ: dict[str, str], points: int) -> float:
    """Return the CPU seconds to produce as many points from prepared bytes."""
    kafka = from_environment(environ)
    assert kafka is not None
    broker = KafkaBroker(kafka)
    reports: list[Failure | None] = []
    value = os.urandom(2000) + bytes(18_000)  # about 2,000 points, and compresses about as well
    begin_s = time.process_time()
    messages = points // 2000
    for number in range(messages):
        message = Message("metric", b"%032x" % (number % 4), value, 2000)
        while not broker.produce(message, reports.append):
            broker.poll(0.05)
    while len(reports) < messages:
        broker.poll(0.05)
    spent_s = time.process_time() - begin_s
    broker.close()
    return spent_s


IDLE_PRODUCER = """
import os, psutil
from runwire_agent.ship.kafka import KafkaBroker
from runwire_schemas.connections.kafka import from_environment
broker = KafkaBroker(from_environment(os.environ))
assert broker.is_reachable(10)
print(psutil.Process().memory_info().rss)
"""


def resident_floor(environ: dict[str, str]) -> int:
    """Return the resident bytes of a process that only has a connected producer."""
    command = [sys.executable, "-c", IDLE_PRODUCER]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, check=True)
    return int(done.stdout)


def main() -> None:
    """Print the figures."""
    with topics() as environ, tempfile.TemporaryDirectory() as folder:
        os.environ.update(environ)
        cpu, resident, rate = steady(Path(folder) / "steady", environ)
        drained, drain_resident = drain(Path(folder) / "drain", environ)
        floor_cpu_s = produce_floor(environ, OUTAGE_POINTS)
        floor_resident = resident_floor(environ)
    floor = floor_cpu_s / OUTAGE_POINTS * rate
    name = f"at {three_digits(rate / 1000)} k points/s"
    figure(
        f"agent CPU {name}",
        100 * cpu,
        "% of a core",
        floor=f"produce prepared bytes {three_digits(100 * floor)} %",
        ratio=cpu / floor,
    )
    figure(
        f"agent RSS {name}",
        resident / 2**20,
        "MiB",
        floor=f"a connected producer {three_digits(floor_resident / 2**20)} MiB",
        ratio=resident / floor_resident,
    )
    figure(
        "drain after an outage",
        drained,
        "points/s",
        floor=f"steady rate {three_digits(rate)}",
        ratio=drained / rate,
    )
    figure(
        "agent RSS while it drains",
        drain_resident / 2**20,
        "MiB",
        floor=f"in flight at most {IN_FLIGHT_BYTES_MAX / 2**20:.0f} MiB, steady",
        ratio=drain_resident / resident,
    )


if __name__ == "__main__":
    main()
