"""Speed of each artifact route from `log_artifact` to MinIO, and the memory that it needs.

The time ends when the artifact is visible in the store. The floor is `put_object` of the plain
`minio` client with the same file, in turns with the routes in the same run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from minio import Minio

from brokers import topics
from measure import figure, median, three_digits
from runwire_schemas.connections.s3 import S3Settings
from runwire_store.layout import artifacts_prefix
from runwire_store.s3.store import S3Store
from stores import fresh_bucket

MIB = 1024 * 1024
# One size for speed, in several turns; one for memory, once.
FILE_BYTES = int(os.environ.get("RUNWIRE_BENCH_BYTES", str(1024 * MIB)))
LARGE_BYTES = int(os.environ.get("RUNWIRE_BENCH_LARGE_BYTES", str(2048 * MIB)))
TURNS = int(os.environ.get("RUNWIRE_BENCH_TURNS", "5"))
PATIENCE_S = 300.0
BARS = {"kafka": ">= 0.35 of the client", "direct": ">= 0.8 of the client"}
TRAINER = """
import sys, time
import runwire
run = runwire.init("bench", run_id=sys.argv[1])
for line in sys.stdin:
    print(time.time_ns(), flush=True)
    run.log_artifact(line.strip(), name="bench", policy="link")
run.finish(timeout=60)
"""


class RoutePipeline:
    """A trainer and an agent that use one route; on the Kafka route also an object worker."""

    def __init__(self, route: str, root: Path, s3: S3Settings, kafka: dict[str, str]) -> None:
        self.route, self.run_id = route, f"run-{route}"
        self._root, self._store = root, S3Store(s3)
        about = {
            "RUNWIRE_DIR": str(root),
            "RUNWIRE_ARTIFACT_ROUTE": route,
            "RUNWIRE_AGENT": "none",
            "RUNWIRE_CAPTURE_GIT": "0",
        }
        keys = s3.environment()
        self._processes: list[subprocess.Popen[str]] = []
        self.watched: dict[str, psutil.Process] = {}
        if route == "kafka":
            self._start("worker", ["-m", "runwire_consumers", "objects", "--metrics-port", "0"],
                        about | kafka | keys)  # fmt: skip
        own = kafka if route == "kafka" else keys
        self._start("agent", ["-m", "runwire_agent", "--dir", str(root)], about | own)
        self._trainer = self._start("trainer", ["-c", TRAINER, self.run_id], about | own)

    def seconds(self, path: Path) -> float:
        """Log the file, wait until it is visible, and return how long that took."""
        with path.open("r+b") as file:
            file.write(os.urandom(64))  # otherwise the store has the content from an earlier turn
        seen = self._visible()
        assert self._trainer.stdin is not None
        assert self._trainer.stdout is not None
        self._trainer.stdin.write(f"{path}\n")
        self._trainer.stdin.flush()
        begin_ns = int(self._trainer.stdout.readline())
        while self._visible() == seen:
            if time.time_ns() - begin_ns > PATIENCE_S * 1e9:
                raise SystemExit(f"{self.route}: no artifact arrived; see the logs in {self._root}")
            time.sleep(0.01)
        return (time.time_ns() - begin_ns) / 1e9

    def resident(self) -> dict[str, int]:
        """Return the resident memory of the processes that ship."""
        return {name: process.memory_info().rss for name, process in self.watched.items()}

    def close(self) -> None:
        assert self._trainer.stdin is not None
        self._trainer.stdin.close()
        self._trainer.wait(90)
        for process in reversed(self._processes):
            process.terminate()
            process.wait(60)
        self._store.close()

    def _visible(self) -> int:
        return sum(1 for _ in self._store.list(artifacts_prefix("bench", self.run_id)))

    def _start(self, name: str, words: list[str], environ: dict[str, str]) -> subprocess.Popen[str]:
        log = (self._root / f"{name}.log").open("w")
        pipe = subprocess.PIPE if name == "trainer" else None
        process = subprocess.Popen(
            [sys.executable, *words], env=os.environ | environ, text=True,
            stdin=pipe, stdout=pipe or log, stderr=log,
        )  # fmt: skip
        self._processes.append(process)
        if name != "trainer":
            self.watched[name] = psutil.Process(process.pid)
        return process


@contextlib.contextmanager
def peaks(processes: dict[str, psutil.Process]) -> Iterator[dict[str, int]]:
    """Yield the peak resident memory of each process while the block runs."""
    found, done = dict.fromkeys(processes, 0), threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for name, process in processes.items():
                found[name] = max(found[name], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def noise(path: Path, size: int) -> Path:
    """Write a file that nothing can compress or deduplicate."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    return path


def plain_seconds(client: Minio, bucket: str, path: Path) -> float:
    """Return the seconds that the plain client takes."""
    begin_s = time.perf_counter()
    with path.open("rb") as data:
        client.put_object(bucket, "plain", data, path.stat().st_size)
    return time.perf_counter() - begin_s


def measure(folder: Path, s3: S3Settings, kafka: dict[str, str]) -> None:
    client = Minio(s3.address, s3.access_key, s3.secret_key, secure=s3.is_secure)
    pipelines = []
    for route in BARS:
        (folder / route).mkdir()
        pipelines.append(RoutePipeline(route, folder / route, s3, kafka))
    times: dict[str, list[float]] = {"plain": [], **{pipeline.route: [] for pipeline in pipelines}}
    for turn in range(TURNS + 1):
        path = noise(folder / f"file-{turn}", FILE_BYTES if turn else MIB)
        took = {"plain": plain_seconds(client, s3.bucket, path)}
        took |= {pipeline.route: pipeline.seconds(path) for pipeline in pipelines}
        path.unlink()
        for name in times if turn else ():  # the first turn, a small file, opens connections
            times[name].append(took[name])
        if not turn:
            small = {pipeline.route: pipeline.resident() for pipeline in pipelines}
    floor = median(times["plain"])
    for pipeline in pipelines:
        speed = FILE_BYTES / MIB / median(times[pipeline.route])
        # Each turn against its own floor, because other load on the machine affects both.
        pairs = zip(times["plain"], times[pipeline.route], strict=True)
        ratio = median([plain / ours for plain, ours in pairs])
        figure(f"{pipeline.route} route, {FILE_BYTES // MIB} MiB file", speed, "MiB/s",
               floor=f"plain client {three_digits(FILE_BYTES / MIB / floor)} MiB/s", ratio=ratio,
               bar=BARS[pipeline.route])  # fmt: skip
    path = noise(folder / "large", LARGE_BYTES)
    for pipeline in pipelines:
        with peaks(pipeline.watched) as most:
            pipeline.seconds(path)
        for name, before in small[pipeline.route].items():
            more = most[name] - before
            figure(f"{name} memory, {pipeline.route} route, {LARGE_BYTES // MIB} MiB", more / MIB,
                   "MiB more", floor=f"{three_digits(before / MIB)} MiB after a small file",
                   ratio=most[name] / before, bar="<= 100 MB")  # fmt: skip
        pipeline.close()


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="runwire-bench-") as folder,
        topics() as kafka,
        fresh_bucket("minio") as s3,
    ):
        measure(Path(folder), s3, kafka)


if __name__ == "__main__":
    main()
