"""Threads beside the loop: adopting artifacts of dead workers, failing overdue ones, retries."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from runwire_consumers.core.health import SelfMetrics
from runwire_consumers.objects.completion import Completion
from runwire_consumers.objects.finishing import Finishing, Tending, Upkeep
from runwire_consumers.objects.staging import Staging
from runwire_schemas.events import ArtifactEvent
from runwire_store.layout import STAGING
from runwire_store.memory import MemoryObjectStore
from runwire_store.store import StoreAway
from support.builders import AT_NS
from support.shipments import Shipped, content, shipped

NS = 1_000_000_000
MIB = 1024 * 1024


class Place:
    """A store with a clock, and what its worker told."""

    def __init__(self) -> None:
        self.now_ns = AT_NS
        self.told: list[ArtifactEvent] = []
        self.finished: list[str] = []
        self.store = MemoryObjectStore(clock_ns=lambda: self.now_ns)
        self.staging = Staging(self.store, puts=1)
        self.completion = Completion(
            self.staging, self.told.extend, clock_ns=lambda: self.now_ns, threads=1
        )

    def tending(self) -> Tending:
        return Tending(
            self.staging, self.completion, self.finished.append,
            staging_s=1000, grace_s=2000, look_s=60, clock_ns=lambda: self.now_ns,
        )  # fmt: skip

    def ship(self, one: Shipped, pieces: int) -> None:
        self.staging.add(one.chunks[:pieces])
        self.staging.add_shipped(one.artifact, (one.event.manifest or "").encode())


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def one(seed: int) -> Shipped:
    return shipped({"a.bin": content(3 * MIB, random.Random(seed))})


def test_first_look_adopts_all_artifacts_later_ones_only_abandoned(
    place: Place, one: Shipped
) -> None:
    """After a start every unfinished artifact is adopted; later only those older than look_s."""
    place.ship(one, 6)
    tending = place.tending()
    tending.look()
    assert place.finished == [one.artifact]
    tending.look()
    assert place.finished == [one.artifact], "its own worker may be at it"
    place.now_ns += 61 * NS
    tending.look()
    assert place.finished == [one.artifact, one.artifact]


def test_takeover_adopts_all_artifacts_once_also_after_a_failed_look(
    place: Place, one: Shipped
) -> None:
    """Also when the store was away at the first look."""
    tending = place.tending()
    tending.look()
    place.ship(one, 6)
    tending.look()
    assert place.finished == []
    tending.take_over()

    def trouble(verb: str, key: str) -> None:
        raise StoreAway("away")

    place.store.trouble = trouble
    with pytest.raises(StoreAway):
        tending.look()
    place.store.trouble = None
    tending.look()
    tending.look()
    assert place.finished == [one.artifact]


def test_upkeep_looks_at_once_when_soon_is_called() -> None:
    """An hour is far; partitions of a dead worker come in between."""
    looks = threading.Semaphore(0)
    upkeep = Upkeep(looks.release, 3600.0)
    assert looks.acquire(timeout=30)
    upkeep.soon()
    assert looks.acquire(timeout=30)
    upkeep.close(30)
    assert not looks.acquire(blocking=False)


def test_overdue_artifact_completes_if_whole_and_fails_if_not(place: Place, one: Shipped) -> None:
    """After staging_s a complete artifact is finished; one with missing pieces fails."""
    half = shipped({"b.bin": content(3 * MIB, random.Random(0))}, number=2, name="half")
    place.ship(one, 6)
    place.ship(half, 5)
    place.now_ns += 1001 * NS
    place.tending().look()
    assert {event.artifact: event.event for event in place.told} == {
        one.artifact: "complete",
        half.artifact: "failed",
    }
    assert list(place.store.list(STAGING)) == []


def test_sweep_deletes_staging_without_a_list_and_unused_blobs(place: Place, one: Shipped) -> None:
    """Old pieces without a list and blobs without a manifest are deleted."""
    place.staging.add(one.chunks[:3])
    place.store.put("blobs/aa/" + "aa" * 32, b"unnamed")
    tending = place.tending()
    place.now_ns += 999 * NS
    tending.look()
    assert len(list(place.store.list(""))) == 2
    place.now_ns += 1002 * NS
    tending.look()
    assert list(place.store.list("")) == []
    assert place.told == []


@pytest.fixture
def start() -> Iterator[Callable[[Completion, SelfMetrics], Finishing]]:
    started: list[Finishing] = []

    def begin(completion: Completion, metrics: SelfMetrics) -> Finishing:
        started.append(Finishing(completion, metrics, threads=2))
        return started[-1]

    yield begin
    for finishing in started:
        finishing.close(5.0)


def test_finishing_retries_until_the_store_is_reachable(
    place: Place, one: Shipped, start: Callable[[Completion, SelfMetrics], Finishing]
) -> None:
    """A store that is unreachable for a while only delays an artifact."""
    place.ship(one, 6)
    metrics = SelfMetrics()
    is_over = threading.Event()
    troubles = ["away", "away"]

    def trouble(verb: str, key: str) -> None:
        if verb == "compose" and troubles:
            raise StoreAway(troubles.pop())

    place.store.trouble = trouble

    def announce(events: Sequence[ArtifactEvent]) -> None:
        place.told.extend(events)
        is_over.set()

    finishing = start(Completion(place.staging, announce, threads=1), metrics)
    finishing.add(one.artifact)
    assert is_over.wait(30)
    finishing.close(30.0)
    assert [event.event for event in place.told] == ["complete"]
    assert metrics.value("runwire_worker_artifacts_total", outcome="complete") == 1
    assert metrics.value("runwire_worker_unfinished_artifacts") == 0


def test_unexpected_error_sets_one_artifact_aside_and_others_finish(
    place: Place, one: Shipped, start: Callable[[Completion, SelfMetrics], Finishing]
) -> None:
    """An unexpected exception costs one artifact one attempt; the rest is finished."""
    other = shipped({"b.bin": content(3 * MIB, random.Random(0))}, number=2, name="other")
    place.ship(one, 6)
    place.ship(other, 6)
    metrics = SelfMetrics()

    def trouble(verb: str, key: str) -> None:
        if verb == "compose" and one.manifest.files[0].sha256 in key:
            raise ZeroDivisionError

    place.store.trouble = trouble
    finishing = start(place.completion, metrics)
    finishing.add(one.artifact)
    finishing.add(other.artifact)
    while finishing.is_busy():
        threading.Event().wait(0.01)
    assert place.store.stat(other.manifest.key) is not None
    assert metrics.value("runwire_worker_artifacts_total", outcome="error") == 1
    assert place.staging.is_shipped(one.artifact), "the next start tries it again"
