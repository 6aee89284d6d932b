"""Speed of a file to the object store and back, relative to the plain client in one process."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from minio import Minio

from measure import figure, median, three_digits
from runwire_schemas.connections.s3 import S3Settings
from runwire_store.s3.store import S3Store
from stores import fresh_bucket

MIB = 1024 * 1024
FILE_BYTES = int(os.environ.get("RUNWIRE_BENCH_BYTES", str(512 * MIB)))
TURNS = 5


@contextlib.contextmanager
def peak_rss() -> Iterator[list[int]]:
    """Yield a list; at the end of the block it receives the peak growth of resident memory."""
    process, grown, done = psutil.Process(), list[int](), threading.Event()
    before = process.memory_info().rss
    most = [before]

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield grown
    finally:
        done.set()
        watcher.join()
        grown.append(most[0] - before)


def timed(action: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    begin_s = time.perf_counter()
    action()
    return time.perf_counter() - begin_s


def compare(name: str, settings: S3Settings, folder: Path) -> None:
    """Measure our store and the plain client in turns, so that other load affects both."""
    source = folder / "source"
    with source.open("wb") as file:
        for _ in range(FILE_BYTES // MIB):
            file.write(os.urandom(MIB))
    store = S3Store(settings)
    plain = Minio(settings.address, settings.access_key, settings.secret_key, secure=False)

    def put_plain() -> None:
        with source.open("rb") as data:
            plain.put_object(settings.bucket, "plain", data, FILE_BYTES)

    def get_plain() -> None:
        plain.fget_object(settings.bucket, "blobs/aa/ours", str(folder / "plain"))
        with (folder / "plain").open("rb") as data:
            os.fsync(data.fileno())  # as ours, which syncs before it renames

    actions: dict[str, Callable[[], object]] = {
        "put": lambda: store.put_file("blobs/aa/ours", source, journal=folder / "journal"),
        "put plain": put_plain,
        "get": lambda: store.get_file("blobs/aa/ours", folder / "ours"),
        "get plain": get_plain,
    }
    times: dict[str, list[float]] = {action: [] for action in actions}
    grown: dict[str, int] = dict.fromkeys(actions, 0)
    for action in actions.values():
        action()  # the first of each also opens connections and creates the object
    for turn in range(TURNS):
        for what, action in sorted(actions.items(), reverse=turn % 2 > 0):
            os.sync()  # so that no turn pays for earlier writes
            with peak_rss() as rss:
                times[what].append(timed(action))
            grown[what] = max(grown[what], rss[0])
    store.close()
    for what, bar in (("put", ">= 0.8 of the client"), ("get", "")):
        ours, floor = median(times[what]), median(times[f"{what} plain"])
        speed = FILE_BYTES / MIB / ours
        plain_speed = f"plain minio client {three_digits(FILE_BYTES / MIB / floor)} MiB/s"
        figure(
            f"{name} {what}_file", speed, "MiB/s", floor=plain_speed, ratio=floor / ours, bar=bar
        )
        ours_mib, floor_mib = grown[what] / MIB, max(grown[f"{what} plain"] / MIB, 0.1)
        figure(
            f"{name} {what}_file memory",
            ours_mib,
            "MiB more",
            floor=f"plain minio client {three_digits(floor_mib)} MiB",
            ratio=ours_mib / floor_mib,
            bar="<= 64 MiB" if what == "put" else "",
        )


def main() -> None:
    """Measure both servers, one after the other."""
    for name in ("versitygw", "minio"):
        with (
            tempfile.TemporaryDirectory(prefix="runwire-bench-") as folder,
            fresh_bucket(name) as settings,
        ):
            compare(name, settings, Path(folder))


if __name__ == "__main__":
    main()
