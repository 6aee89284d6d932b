"""Publication: an artifact is visible whole or not at all, with kills and races."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from runwire_store.catalog import Catalog, CatalogError
from runwire_store.condemned import MARKS
from runwire_store.layout import NAMES, RUNS, blob_key
from runwire_store.manifest import FileEntry, Manifest, ManifestError
from runwire_store.memory import MemoryObjectStore
from runwire_store.publish import PublishError, RunDeletedError, publish
from runwire_store.releasing import delete_objects
from runwire_store.store import StoreAway
from runwire_store.versions import parse_version_keys
from support.interleaved import at_the_same_time, by_seed, switching
from support.stored import AT_NS, manifest, put_artifact, put_blobs, put_checkpoint

FILES = {"a.bin": b"one", "sub/b.bin": b"two", "empty": b""}


class CrashError(Exception):
    """The process died here."""


class CrashAt:
    """Raises at call number `last`, and tells how many there were."""

    def __init__(self, last: int = 10**9) -> None:
        self.calls = 0
        self.last = last

    def __call__(self, verb: str, key: str) -> None:
        self.calls += 1
        if self.calls == self.last:
            raise CrashError(f"{verb} {key}")


def visible(store: MemoryObjectStore) -> list[tuple[str, int]]:
    store.trouble = None
    return [(v.manifest.artifact, v.number) for v in Catalog(store).artifacts("p")]


def test_published_artifact_has_its_stamp_and_manifest(seed: int) -> None:
    """The stamp is the given time, the manifest lies at its key, empty files need no blob."""
    store = MemoryObjectStore()
    put_blobs(store, {"a.bin": b"one", "sub/b.bin": b"two"})
    done = publish(store, manifest(1, FILES), now_ns=AT_NS)
    assert done.version_at_ns == AT_NS
    assert Manifest.from_json(store.get(done.key)) == done
    assert Catalog(store).resolve("data", "p").manifest == done


def test_publishing_again_leaves_the_store_unchanged() -> None:
    """The artifact's id decides: a later call returns what is there."""
    store = MemoryObjectStore()
    done = put_artifact(store, 1)
    again = publish(store, manifest(1), now_ns=AT_NS * 2)
    assert again == done
    assert len(list(store.list(NAMES))) == 1


@pytest.mark.parametrize(
    "files", [{"a.bin": b"one"}, FILES, {f"{n}.bin": b"%d" % n for n in range(30)}]
)
def test_publish_killed_between_any_two_calls_is_completed_by_a_repeat(
    files: dict[str, bytes],
) -> None:
    """Before the manifest is stored nothing is visible, and a repeat completes it."""
    counted = CrashAt()
    store = MemoryObjectStore()
    put_blobs(store, files)
    store.trouble = counted
    publish(store, manifest(1, files), now_ns=AT_NS)
    assert counted.calls > 6
    for last in range(1, counted.calls + 1):
        store = MemoryObjectStore()
        put_artifact(store, 7, {"old": b"old"}, now_ns=AT_NS - 5)
        put_blobs(store, files)
        store.trouble = CrashAt(last)
        # What only a second version asks for comes on top: late crashes may not come.
        try:
            publish(store, manifest(1, files), now_ns=AT_NS)
        except CrashError:
            stored = any(s.key == manifest(1, files).key for s in store.list(RUNS))
            expected = [(manifest(1).artifact, 1)] if stored else []
            assert visible(store) == [*expected, (manifest(7).artifact, 0)]
        store.trouble = None
        done = publish(store, manifest(1, files), now_ns=AT_NS + 9)
        assert visible(store) == [(manifest(1).artifact, 1), (manifest(7).artifact, 0)]
        assert [e.stamp_ns for e in parse_version_keys(store.list(NAMES))] == [
            AT_NS - 5,
            done.version_at_ns,
        ]


def test_publish_names_missing_blobs_and_leaves_no_version() -> None:
    """A blob that is missing or of another size is named; no version is left."""
    store = MemoryObjectStore()
    put_blobs(store, {"a.bin": b"one", "sub/b.bin": b"two"})
    made = manifest(1, FILES)
    gone, short = made.files[0].sha256, made.files[1].sha256
    store.delete([blob_key(gone)])
    store.put(blob_key(short), b"tw")
    with pytest.raises(PublishError, match=r"a\.bin") as caught:
        publish(store, made, now_ns=AT_NS)
    assert set(caught.value.missing) == {gone, short}
    assert not list(store.list(NAMES))
    put_blobs(store, FILES)
    assert publish(store, made, now_ns=AT_NS).version_at_ns == AT_NS


def test_publishing_a_reference_needs_no_blob() -> None:
    """A file logged by reference has no blob and is published without one."""
    store = MemoryObjectStore()
    made = manifest(1, {"a.bin": b"one"})
    made = replace(made, files=(replace(made.files[0], uri="file:///data/a.bin"),))
    assert publish(store, made, now_ns=AT_NS).version_at_ns == AT_NS


def test_equal_content_published_twice_shares_one_version() -> None:
    """A run that logs a known dataset again makes no new version, unless it adds an alias."""
    store = MemoryObjectStore()
    first = put_artifact(store, 1, {"d": b"x"}, aliases=("good",))
    again = put_artifact(store, 2, {"d": b"x"}, run_id="r2", aliases=("good",))
    assert again.version_at_ns == first.version_at_ns
    assert put_artifact(store, 3, {"d": b"x"}, aliases=("new",)).version_at_ns > AT_NS + 2
    other = put_artifact(store, 4, {"d": b"y"})
    back = put_artifact(store, 5, {"d": b"x"})
    assert back.version_at_ns > other.version_at_ns
    assert put_artifact(store, 6, {"d": b"x"}, type="model").version_at_ns > back.version_at_ns
    numbers = [(v.number, int(v.manifest.artifact, 16)) for v in Catalog(store).artifacts("p")]
    assert numbers == [(4, 6), (3, 5), (2, 4), (1, 3), (0, 1)]


def test_equal_content_gets_a_new_version_when_the_old_one_is_deleted() -> None:
    """Content equal to a deleted version does not reuse its number."""
    store = MemoryObjectStore()
    first = put_artifact(store, 1, {"d": b"x"})
    store.delete([first.key])
    assert put_artifact(store, 2, {"d": b"x"}).version_at_ns > first.version_at_ns


def test_checkpoints_never_share_a_version() -> None:
    """Two checkpoints with equal content have versions of their own."""
    store = MemoryObjectStore()
    first = put_checkpoint(store, 1, 100)
    second = publish(store, replace(first, artifact=f"{2:032x}"), now_ns=AT_NS)
    assert second.version_at_ns > first.version_at_ns


def test_a_clock_that_stands_still_gives_rising_stamps() -> None:
    """Versions published in the same nanosecond still get different, rising stamps."""
    store = MemoryObjectStore()
    stamps = [put_artifact(store, n, now_ns=AT_NS).version_at_ns for n in range(1, 6)]
    assert stamps == sorted(set(stamps))
    assert [v.number for v in Catalog(store).artifacts("p")] == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("round_number", range(25))
def test_concurrent_publications_of_one_name_get_different_versions(
    seed: int, round_number: int
) -> None:
    """Different content gets different versions, each visible, each stamp the entry's."""
    store = MemoryObjectStore()
    made = [manifest(n) for n in range(1, 5)]
    for n in range(1, 5):
        put_blobs(store, {"a.bin": b"%d" % n})
    calls = [lambda m=m: publish(store, m, now_ns=AT_NS) for m in made]
    done = at_the_same_time(store, calls, by_seed(seed + round_number))
    assert len({m.version_at_ns for m in done}) == 4
    versions = Catalog(store).artifacts("p")
    assert sorted(v.number for v in versions) == [0, 1, 2, 3]
    stamps = {e.artifact: e.stamp_ns for e in parse_version_keys(store.list(NAMES))}
    assert {m.artifact: m.version_at_ns for m in done} == stamps


@pytest.mark.parametrize("round_number", range(25))
def test_concurrent_publications_of_one_artifact_give_one_version(
    seed: int, round_number: int
) -> None:
    """Two workers that finish the same artifact leave one version."""
    store = MemoryObjectStore()
    put_blobs(store, {"a.bin": b"1"})
    calls = [lambda n=n: publish(store, manifest(1), now_ns=AT_NS + 100 - n) for n in range(3)]
    done = at_the_same_time(store, calls, by_seed(seed + round_number))
    assert all(isinstance(m, Manifest) for m in done)
    (version,) = Catalog(store).artifacts("p")
    assert version.number == 0
    (entry,) = parse_version_keys(store.list(NAMES))
    assert version.manifest.version_at_ns == entry.stamp_ns


def test_publish_raises_store_away_while_a_sweep_has_marked_its_blobs() -> None:
    """A fresh mark names the blob: not now; a mark about other blobs, or an old one: go on."""
    now = [AT_NS]
    store = MemoryObjectStore(clock_ns=lambda: now[0])
    put_blobs(store, {"a.bin": b"1"})
    (blob,) = [e.sha256 for e in manifest(1).files]
    store.put(f"{MARKS}{1:032x}.json", json.dumps(["ff" * 32]).encode())
    store.put(f"{MARKS}{2:032x}.json", json.dumps([blob]).encode())
    with pytest.raises(StoreAway, match="sweep"):
        publish(store, manifest(1), now_ns=AT_NS)
    with pytest.raises(CatalogError):
        Catalog(store).resolve("data", "p")
    now[0] += 3600 * 10**9
    assert publish(store, manifest(1), now_ns=AT_NS).version_at_ns == AT_NS


@pytest.mark.parametrize(
    "files",
    [
        [FileEntry(path="../a", size=1, sha256="0" * 64)],
        [FileEntry(path="/a", size=1, sha256="0" * 64)],
        [FileEntry(path="a", size=1, sha256="../../etc/passwd")],
        [
            FileEntry(path="a", size=1, sha256="0" * 64),
            FileEntry(path="a", size=1, sha256="0" * 64),
        ],
        [
            FileEntry(path="a", size=1, sha256="0" * 64),
            FileEntry(path="a/b", size=1, sha256="0" * 64),
        ],
        [FileEntry(path="a", size=-1, sha256="0" * 64)],
    ],
)
def test_publish_refuses_files_that_no_folder_can_hold(files: list[FileEntry]) -> None:
    """Before anything is stored."""
    store = MemoryObjectStore()
    with pytest.raises(ManifestError):
        publish(store, replace(manifest(1), files=tuple(files)), now_ns=AT_NS)
    assert not list(store.list(""))


@pytest.mark.parametrize("first", range(14))
@pytest.mark.parametrize("of_deletion", [False, True])
def test_each_point_of_a_deletion_against_each_of_a_publication(
    first: int, of_deletion: bool
) -> None:
    """Whichever comes first, nothing of a deleted run is visible afterwards."""
    for second in range(10):
        store = MemoryObjectStore()
        put_artifact(store, 1)
        put_blobs(store, {"a.bin": b"2"})
        calls: list[Callable[[], object]] = [
            lambda store=store: publish(store, manifest(2), now_ns=AT_NS),
            lambda store=store: delete_objects(store, "p", "r"),
        ]
        done = at_the_same_time(
            store, calls[::-1] if of_deletion else calls, switching(first, second)
        )
        assert all(isinstance(each, int | Manifest | RunDeletedError) for each in done)
        assert Catalog(store).artifacts("p") == [], (first, second)
        with pytest.raises(RunDeletedError, match="deleted"):
            publish(store, manifest(3, {}), now_ns=AT_NS)
