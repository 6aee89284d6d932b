"""The sweep: it deletes unused content and nothing else, also beside publications."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runwire_store import condemned
from runwire_store.condemned import MARKS
from runwire_store.download import verify
from runwire_store.layout import BLOBS, NAMES, RUNS, STAGING, blob_key, staging_prefix
from runwire_store.manifest import Manifest
from runwire_store.memory import MemoryObjectStore
from runwire_store.publish import PublishError, publish
from runwire_store.releasing import delete_objects
from runwire_store.store import StoreAway
from runwire_store.sweep import GRACE_S, STAGING_S, SweepReport, sweep
from support.interleaved import at_the_same_time, by_seed, switching
from support.stored import AT_NS, SECOND, manifest, put_artifact, put_blobs

DAY = 86_400 * SECOND


class Clock:
    """A store's clock that tests turn."""

    def __init__(self) -> None:
        self.now_ns = AT_NS

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


def blobs(store: MemoryObjectStore) -> set[str]:
    return {stat.key.rsplit("/", 1)[1] for stat in store.list(BLOBS)}


def test_sweep_deletes_only_old_blobs_without_a_manifest() -> None:
    """Named ones stay however old, unnamed ones for the grace."""
    clock = Clock()
    store = MemoryObjectStore(clock_ns=clock)
    kept = put_artifact(store, 1, {"a": b"kept", "b": b"kept too"})
    put_blobs(store, {"x": b"orphan"})
    clock.now_ns += DAY
    put_blobs(store, {"y": b"young orphan"})
    report = sweep(store, now_ns=clock.now_ns + 5, dry_run=True)
    assert (len(report.blobs), report.blob_bytes, report.is_dry_run) == (1, 6, True)
    assert len(blobs(store)) == 4
    assert sweep(store, now_ns=clock.now_ns + 5) == replace(report, is_dry_run=False)
    assert len(blobs(store)) == 3
    assert verify(store, kept) == []
    assert not list(store.list(STAGING)), "no mark stays"
    assert sweep(store, now_ns=clock.now_ns + 5).blobs == ()


def test_sweep_deletes_blobs_of_a_deleted_manifest_unless_shared() -> None:
    """Blobs that another manifest names are kept."""
    clock = Clock()
    store = MemoryObjectStore(clock_ns=clock)
    gone = put_artifact(store, 1, {"a": b"own", "b": b"shared"})
    left = put_artifact(store, 2, {"b": b"shared"})
    clock.now_ns += 2 * DAY
    store.delete([gone.key])
    assert sweep(store, now_ns=clock.now_ns).blobs == (gone.files[0].sha256,)
    assert verify(store, left) == []


def test_sweep_deletes_content_of_a_deleted_run() -> None:
    """The run's tombstone is no manifest, and stands in no sweep's way."""
    clock = Clock()
    store = MemoryObjectStore(clock_ns=clock)
    put_artifact(store, 1)
    left = put_artifact(store, 2, run_id="other")
    delete_objects(store, "p", "r")
    clock.now_ns += 2 * DAY
    report = sweep(store, now_ns=clock.now_ns)
    assert (len(report.blobs), report.unreadable) == (1, {})
    assert verify(store, left) == []


def test_sweep_deletes_staging_without_new_pieces_for_a_week() -> None:
    """All of an artifact's pieces or none: the newest decides."""
    clock = Clock()
    store = MemoryObjectStore(clock_ns=clock)
    old, slow = manifest(1).artifact, manifest(2).artifact
    store.put(f"{staging_prefix(old)}x/000001-16-d", b"12345")
    store.put(f"{staging_prefix(slow)}x/000001-16-d", b"1")
    clock.now_ns += 8 * DAY
    store.put(f"{staging_prefix(slow)}x/000002-16-d", b"1")
    report = sweep(store, now_ns=clock.now_ns, dry_run=True)
    assert (report.staging, report.staging_bytes) == ((old,), 5)
    sweep(store, now_ns=clock.now_ns)
    assert {stat.key.split("/")[1] for stat in store.list(STAGING)} == {slow}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: json.dumps({**json.loads(data), "format": 2}).encode(),
        lambda data: data[:40],
        lambda data: data[:0],
    ],
)
def test_unreadable_manifest_stops_the_sweep_of_all_content(damage) -> None:
    """Nobody knows what it needs: no content goes, staging does, and the report says why."""
    clock = Clock()
    store = MemoryObjectStore(clock_ns=clock)
    made = put_artifact(store, 1)
    put_blobs(store, {"x": b"orphan"})
    store.put(made.key, damage(store.get(made.key)))
    store.put(f"{staging_prefix(made.artifact)}x/000001-16-d", b"1")
    clock.now_ns += 30 * DAY
    report = sweep(store, now_ns=clock.now_ns)
    assert report.blobs == ()
    assert list(report.unreadable) == [made.key]
    assert report.staging == (made.artifact,)
    assert len(blobs(store)) == 2


def test_sweep_spares_blobs_of_a_publication_in_progress() -> None:
    """An entry without a manifest protects its blobs for an hour, then they go."""
    clock = Clock()
    store = MemoryObjectStore(clock_ns=clock)
    put_blobs(store, {"a.bin": b"1"})
    clock.now_ns += 2 * DAY

    def crash(verb: str, key: str) -> None:
        if verb == "put" and key == manifest(1).key:
            raise KeyboardInterrupt

    store.trouble = crash
    with pytest.raises(KeyboardInterrupt):
        publish(store, manifest(1), now_ns=AT_NS)
    store.trouble = None
    assert sweep(store, now_ns=clock.now_ns).blobs == ()
    clock.now_ns += 2 * 3600 * SECOND
    assert len(sweep(store, now_ns=clock.now_ns).blobs) == 1
    with pytest.raises(PublishError):
        publish(store, manifest(1), now_ns=AT_NS)


def test_sweep_stops_when_its_lease_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its lease others no longer respect its mark, so it deletes nothing more."""
    clock = Clock()
    store = MemoryObjectStore(clock_ns=clock)
    put_blobs(store, {"x": b"orphan"})
    clock.now_ns += 2 * DAY
    monkeypatch.setattr(condemned, "LEASE_S", -1.0)
    assert sweep(store, now_ns=clock.now_ns).blobs == ()
    assert len(blobs(store)) == 1


def test_sweep_removes_marks_of_killed_sweeps() -> None:
    """A mark older than its effect is deleted by the next sweep."""
    clock = Clock()
    store = MemoryObjectStore(clock_ns=clock)
    store.put(f"{MARKS}{1:032x}.json", b"[]")
    put_blobs(store, {"x": b"orphan"})
    clock.now_ns += 2 * DAY
    assert len(sweep(store, now_ns=clock.now_ns).blobs) == 1
    assert not list(store.list(MARKS))


@pytest.mark.parametrize("last", range(1, 18))
def test_sweep_killed_between_any_two_calls_is_completed_by_the_next(last: int) -> None:
    """What was named stays, and the next sweep deletes the rest."""
    clock = Clock()
    store = MemoryObjectStore(clock_ns=clock)
    kept = put_artifact(store, 1, {"a": b"kept"})
    put_blobs(store, {str(n): b"orphan %d" % n for n in range(5)})
    clock.now_ns += 2 * DAY
    calls = iter(range(1, 1000))

    def crash(verb: str, key: str) -> None:
        if next(calls) == last:
            raise KeyboardInterrupt

    store.trouble = crash
    try:
        sweep(store, now_ns=clock.now_ns)
    except KeyboardInterrupt:
        store.trouble = None
        assert verify(store, kept) == []
        sweep(store, now_ns=clock.now_ns)
    store.trouble = None
    assert blobs(store) == {kept.files[0].sha256}


def _publish(store: MemoryObjectStore, made: Manifest) -> Manifest | str:
    """As the agent does: what is missing is brought again, and a sweep is waited for."""
    for _ in range(5):
        try:
            return publish(store, made, now_ns=AT_NS)
        except PublishError as error:
            for sha256 in error.missing:
                assert sha256 == made.files[0].sha256
                store.put(blob_key(sha256), b"1")
        except StoreAway:
            continue
    return "never"


@pytest.mark.parametrize("round_number", range(25))
def test_a_sweep_beside_publications(seed: int, round_number: int) -> None:
    """Old content that nothing names is wanted again while it is swept: in every order of the
    requests the artifact ends up whole."""
    clock = Clock()
    store = MemoryObjectStore(clock_ns=clock)
    put_blobs(store, {"a.bin": b"1", "x": b"orphan"})
    clock.now_ns += 2 * DAY
    results = at_the_same_time(
        store,
        [
            lambda: sweep(store, now_ns=clock.now_ns, grace_s=3600),
            lambda: _publish(store, manifest(1)),
            lambda: sweep(store, now_ns=clock.now_ns, grace_s=3600),
            lambda: _publish(store, manifest(2, {"a.bin": b"1"})),
        ],
        by_seed(seed + round_number),
    )
    assert [type(result) for result in results[::2]] == [SweepReport, SweepReport]
    assert all(result == "never" or isinstance(result, Manifest) for result in results[1::2])
    if "never" in results:
        for number in (1, 2):
            _publish(store, manifest(number, {"a.bin": b"1"}))
    for number in (1, 2):
        found = [v for v in _all(store) if int(v.artifact, 16) == number]
        assert len(found) == 1
        assert verify(store, found[0]) == []


@pytest.mark.parametrize("first", range(10))
@pytest.mark.parametrize("of_sweep", [False, True])
def test_each_point_of_a_sweep_against_each_of_a_publication(first: int, of_sweep: bool) -> None:
    """One of them stops after `first` requests, the other after any number, then they go on."""
    for second in range(20):
        clock = Clock()
        store = MemoryObjectStore(clock_ns=clock)
        put_blobs(store, {"a.bin": b"1", "x": b"orphan"})
        clock.now_ns += 2 * DAY
        calls = [
            lambda store=store: _publish(store, manifest(1)),
            lambda store=store, clock=clock: sweep(store, now_ns=clock.now_ns, grace_s=3600),
        ]
        done = at_the_same_time(store, calls[::-1] if of_sweep else calls, switching(first, second))
        assert any(isinstance(result, SweepReport) for result in done)
        if "never" in done:  # it was told to wait, and the sweep stood still
            assert isinstance(_publish(store, manifest(1)), Manifest)
        (found,) = _published(store)
        assert verify(store, found) == [], (first, second)


def _all(store: MemoryObjectStore) -> list[Manifest]:
    entries = {s.key for s in store.list(NAMES)}
    assert len(entries) == 2
    return _published(store)


def _published(store: MemoryObjectStore) -> list[Manifest]:
    return [Manifest.from_json(store.get(stat.key)) for stat in store.list(RUNS)]


def test_default_grace_periods_outlast_a_publication() -> None:
    """The grace of blobs and of staging is far longer than an entry's protection."""
    assert GRACE_S >= 3600
    assert STAGING_S >= GRACE_S
