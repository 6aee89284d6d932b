"""Publishing, finding, retention, sweeping and downloading on real stores, by many processes."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.catalog import Catalog
from runwire_store.download import download, verify
from runwire_store.layout import STAGING
from runwire_store.open import open_store
from runwire_store.publish import PublishError, publish
from runwire_store.retention import Retention
from runwire_store.store import ObjectStore, StoreAway
from runwire_store.sweep import sweep
from support.stored import manifest, put_artifact, put_blobs, put_checkpoint, retire

BUCKETS = {"versitygw": "bucket", "minio": "minio_bucket"}
AGO_S = 0.01


@dataclass
class Place:
    """A store that other processes can open too."""

    settings: S3Settings | None
    root: Path
    store: ObjectStore
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def script(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        head = (
            "import sys, time\nfrom pathlib import Path\n"
            "from runwire_store.open import open_store\n"
            "from runwire_schemas.connections.s3 import from_environment\n"
            "from support.stored import *\n"
            f"s3 = from_environment({self.settings.environment() if self.settings else {}!r})\n"
            f"store = open_store(s3, Path({str(self.root)!r}))\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", head + textwrap.dedent(code), *arguments],
            text=True,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        self.started.append(process)
        return process


@pytest.fixture(params=["folder", *BUCKETS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    kind = request.param
    settings = None if kind == "folder" else request.getfixturevalue(BUCKETS[kind])
    store = open_store(settings, tmp_path / "data")
    made = Place(settings, tmp_path / "data", store)
    yield made
    for process in made.started:
        if process.poll() is None:  # the test failed
            process.kill()
            process.communicate()
    store.close()


def test_objects_left_by_retention_and_sweep_download_whole(
    place: Place, tmp_path: Path, seed: int
) -> None:
    """Two versions, three checkpoints, retention, a sweep: what is left downloads whole."""
    store = place.store
    big = random.Random(seed).randbytes(3 << 20)
    put_artifact(store, 1, {"big": big, "dir/empty": b""}, aliases=("best",))
    put_artifact(store, 2, {"x": b"newer"})
    for number in (3, 4, 5):
        put_checkpoint(store, number, number * 100)
    gone = retire(store, Retention(keep_last=1), now_ns=time.time_ns())
    assert [m.checkpoint.step for m in gone if m.checkpoint] == [300, 400]
    time.sleep(1.1)  # S3 tells times in whole seconds
    report = sweep(store, grace_s=AGO_S, now_ns=time.time_ns())
    assert set(report.blobs) == {m.files[0].sha256 for m in gone}
    assert not list(store.list(STAGING))
    catalog = Catalog(store)
    assert catalog.resolve("data", "p").number == 1
    best = catalog.resolve("data:best", "p").manifest
    moved: list[int] = []
    download(store, best, tmp_path / "out", progress=moved.append)
    assert (tmp_path / "out" / "big").read_bytes() == big
    assert (tmp_path / "out" / "dir" / "empty").read_bytes() == b""
    assert sum(moved) == best.size
    (view,) = catalog.checkpoints("p", "r")
    assert verify(store, view.first) == []


def test_concurrent_processes_publish_distinct_versions_of_one_name(place: Place) -> None:
    """Four processes publish ten artifacts each: forty versions, each with its own number."""
    code = """
    first = int(sys.argv[1])
    for number in range(first, first + 10):
        put_artifact(store, number, now_ns=1000)
    """
    started = [place.script(code, str(1 + 10 * n)) for n in range(4)]
    for process in started:
        process.communicate()
    assert [process.returncode for process in started] == [0] * 4
    found = Catalog(place.store).artifacts("p")
    assert sorted(version.number for version in found) == list(range(40))
    stamps = [version.manifest.version_at_ns for version in found]
    assert stamps == sorted(set(stamps), reverse=True)


def test_published_content_survives_a_concurrent_sweep(place: Place, seed: int) -> None:
    """Old content is published and deleted repeatedly while another process sweeps: whenever
    `publish` returns, the content is there."""
    store = place.store
    code = """
    from runwire_store.store import StoreAway
    from runwire_store.sweep import sweep
    until, swept = time.monotonic() + 6, 0
    while time.monotonic() < until:
        try:
            swept += len(sweep(store, grace_s=-3600, now_ns=time.time_ns()).blobs)
        except StoreAway:
            pass
    print(swept)  # at the end: nobody reads before, and a full pipe would stop it for good
    """
    process = place.script(code)
    chance = random.Random(seed)
    number = 1
    while process.poll() is None:
        try:
            put_blobs(store, {"a": b"wanted again"})
            made = manifest(number, {"a": b"wanted again"})
            published = publish(store, made, now_ns=time.time_ns())
        except (PublishError, StoreAway):
            continue  # as an agent does, which has the content still
        assert verify(store, published) == []
        store.delete([published.key])
        number += 1
        time.sleep(chance.choice([0, 0.05]))
    swept, _ = process.communicate()
    assert process.returncode == 0
    assert number > 3
    assert int(swept), "no sweep came between two publications"
