"""Agents and workers on one store, clocks that jump, a sweep beside readers."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from faults.objects import report
from faults.objects.conftest import OpenRig
from faults.objects.finish import finish
from faults.objects.form import AMID_BYTES, LONG, only_long
from faults.objects.observer import Observer
from faults.objects.plain import PlainStore, read
from faults.objects.rig import Rig
from faults.objects.verdict import assert_whole
from runwire_consumers.clickhouse.client import connect
from runwire_schemas.connections.s3 import S3Settings
from runwire_store.catalog import Catalog, CatalogError
from runwire_store.download import DownloadError, download
from runwire_store.open import open_store
from runwire_store.store import NotFound, StoreAway
from runwire_store.sweep import sweep

pytestmark = pytest.mark.engine

SEEDS = 5 if LONG else 1
# An agent whose clock is wrong by two hours, as that of a machine without NTP.
LATE = """
import sys, time
real = time.time_ns
time.time_ns = lambda: real() - 7200 * 10**9
from runwire_agent.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
_VERSIONS = "SELECT artifact, version FROM v_artifacts WHERE name = 'shared' ORDER BY version"


@pytest.mark.parametrize("nth", range(SEEDS))
def test_two_agents_and_two_workers_share_a_store(
    nth: int, open_rig: OpenRig, bucket: S3Settings, *, clickhouse_url: str, fault_seed: int
) -> None:
    """Two machines send the same contents under the same names by both routes; a worker dies."""
    rng = random.Random(f"{fault_seed} together {nth}")
    rig = open_rig("kafka", s3=bucket)
    other = rig.folder / "root-2"
    with Observer(rig.plain()) as observer:
        workers = [rig.start_worker(), rig.start_worker()]
        for root, route, run_id in ((rig.root, "kafka", "one"), (other, "direct", "two")):
            calls = [
                rig.calls.call("file", AMID_BYTES // 2, name="shared", word="the same"),
                rig.calls.call("folder"),
                rig.calls.call("file", 9_000_000, name="shared"),
                rig.calls.call("file", AMID_BYTES // 2, name="shared", word="the same"),
            ]
            rig.start_trainer(calls, run_id=run_id, root=root, route=route)
            rig.start_agent(root=root, route=route)
        rig.wait("a call", lambda: rig.acknowledged() > 0)
        time.sleep(rng.uniform(0.0, 4.0))
        rng.choice(workers).kill()
        rig.wait("all calls", lambda: rig.acknowledged() == 8)
        verdict = finish(rig, observer, clickhouse_url, kills=(1, 1))
    report.note("two agents, two workers", "kafka and direct, versitygw", verdict)
    assert_whole(verdict)
    assert_one_order(rig, clickhouse_url)


def published(store: PlainStore, name: str) -> list[dict[str, Any]]:
    """The stored manifests of one name, by their stamps."""
    found = [json.loads(read(store, key)) for key in store.sizes("runs/")]
    return sorted((m for m in found if m["name"] == name), key=lambda m: m["version_at_ns"])


def assert_one_order(rig: Rig, url: str) -> None:
    """Store and view count the versions alike: one number per content, by rising stamps."""
    store, client = rig.plain(), connect(url)
    stamps = {m["artifact"]: m["version_at_ns"] for m in published(store, "shared")}
    known = sorted(set(stamps.values()))
    wanted = {artifact: known.index(stamp) for artifact, stamp in stamps.items()}
    assert dict(client.query(_VERSIONS).result_rows) == wanted
    digests = {m["version_at_ns"]: set[str]() for m in published(store, "shared")}
    for manifest in published(store, "shared"):
        digests[manifest["version_at_ns"]].add(manifest["digest"])
    assert all(len(contents) == 1 for contents in digests.values())
    client.close()
    store.close()


@pytest.mark.parametrize("route", ["direct", only_long("kafka")])
def test_versions_follow_the_order_of_publication_when_clocks_jump(
    route: str, open_rig: OpenRig, bucket: S3Settings, clickhouse_url: str
) -> None:
    """Versions are numbered in the order of publication, whatever the clocks show."""
    rig = open_rig(route, s3=bucket)
    store = rig.plain()
    if route == "kafka":
        rig.start_worker(member="one")
    with Observer(rig.plain()) as observer:
        for number, (clock_s, program) in enumerate(((0, ""), (-7200, ""), (7200, ""), (0, LATE))):
            call = rig.calls.call("file", 1000, name="shared")
            rig.start_trainer([call], run_id=f"run-{number}", clock_s=clock_s)
            rig.wait("the call", lambda n=number: rig.acknowledged() == n + 1)
            rig.start_agent(program=program, idle_s=0.0)
            rig.wait("it to be there", lambda n=number: len(published(store, "shared")) == n + 1)
        verdict = finish(rig, observer, clickhouse_url)
    runs = [manifest["run_id"] for manifest in published(store, "shared")]
    assert runs == [f"run-{number}" for number in range(4)]
    catalog = Catalog(open_store(bucket, rig.root))
    newest = catalog.resolve("shared", "faults")
    assert (newest.manifest.run_id, newest.number) == ("run-3", 3)
    catalog.store.close()
    store.close()
    report.note("clocks that jump by two hours", f"{route}, versitygw", verdict)
    assert_whole(verdict)
    assert_one_order(rig, clickhouse_url)


class Reader:
    """Downloads the latest checkpoint again and again; what it got whole, and what went wrong."""

    def __init__(self, rig: Rig, into: Path) -> None:
        self._rig, self._into = rig, into
        self.steps: list[int] = []
        self.late = 0
        self.faults: list[str] = []

    def read(self) -> None:
        """Once: whole and right, or a sentence that it is gone."""
        store = open_store(self._rig.s3, self._rig.root)
        try:
            found = Catalog(store).checkpoint("faults", "run", "latest")
            (manifest,) = found.manifests.values()
            (path,) = download(store, manifest, self._into / str(len(self.steps)))
            calls = {call.artifact: call for call in self._rig.written().values()}
            if path.stat().st_size != next(iter(calls[manifest.artifact].files.values()))[1]:
                self.faults.append(f"step {found.step} has {path.stat().st_size} bytes")
            self.steps.append(found.step)
            path.unlink()
        except (CatalogError, NotFound, StoreAway):
            self.late += 1
        except (DownloadError, KeyError, StopIteration) as error:
            self.faults.append(repr(error))
        finally:
            store.close()

    def sweep(self) -> None:
        """Delete whatever nothing names, without any grace."""
        store = open_store(self._rig.s3, self._rig.root)
        try:
            with suppress(StoreAway):
                sweep(store, grace_s=0, now_ns=time.time_ns() + int(1e9))
        finally:
            store.close()


@contextmanager
def repeated(*works: Any) -> Iterator[None]:
    """Do these again and again, each in a thread."""
    stop = threading.Event()

    def run(work: Any) -> None:
        while not stop.wait(0.02):
            work()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("store", ["bucket", only_long("")])
def test_readers_get_whole_checkpoints_beside_retention_and_sweep(
    store: str, open_rig: OpenRig, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A reader gets a checkpoint whole or learns that it is deleted; the last two stay."""
    s3 = request.getfixturevalue(store) if store else None
    rig = open_rig("direct", kafka=bool(store), s3=s3)
    count = 40 if LONG else 8
    calls = [
        rig.calls.call("checkpoint", 5_000_001, retention={"keep_last": 2}) for _ in range(count)
    ]
    reader = Reader(rig, tmp_path / "read")
    with Observer(rig.plain()) as observer, repeated(reader.read, reader.sweep):
        rig.start_agent()
        rig.start_trainer(calls)
        rig.wait("all calls", lambda: rig.acknowledged() == count)
        rig.wait("somebody to read", lambda: bool(reader.steps))
        verdict = finish(rig, observer)
    left = rig.plain()
    steps = sorted(int(key.split("/")[3]) for key in left.sizes("runs/"))
    left.close()
    # Those that retention let go are neither here nor is their version's manifest.
    wrong = [
        fault
        for fault in verdict.faults
        if not fault.endswith(("is lost", "is a version without a manifest"))
    ]
    print(f"read {len(reader.steps)}, gone {reader.late} times")
    assert (wrong, reader.faults) == ([], [])
    assert steps == [count - 1, count]
    assert reader.steps == sorted(reader.steps)


DEATHS = {
    # Nothing captured yet; then all of it, not committed; then committed, not yet said.
    "runwire.checkpoints.saver.Saver:stage:at": False,
    "runwire.outbox.capture.Staged:commit:at": False,
    "runwire.outbox.capture.Staged:commit:behind": True,
}


@pytest.mark.parametrize("death", [*map(only_long, list(DEATHS)[:-1]), list(DEATHS)[-1]])
def test_uncommitted_artifact_is_absent_and_saved_again_by_the_next_attempt(
    death: str, open_rig: OpenRig, clickhouse_url: str
) -> None:
    """Uncommitted artifacts are absent, committed ones complete; the next attempt saves again."""
    rig = open_rig("direct", kafka=False)
    with Observer(rig.plain()) as observer:
        died = rig.start_trainer([rig.calls.call("checkpoint", 3_000_000, die=death)])
        assert died.wait_for_end() == -9
        rig.start_trainer([rig.calls.call("checkpoint", 3_000_000)])
        rig.wait("the second attempt", lambda: rig.acknowledged() == 1)
        verdict = finish(rig, observer, clickhouse_url, kills=(1, 1))
    report.note("a trainer dies amid a checkpoint", ":".join(death.split(":")[1:]), verdict)
    assert_whole(verdict)
    assert verdict.there_all_the_same == DEATHS[death]
