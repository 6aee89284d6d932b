"""What every object store promises: in memory, in a folder, on versitygw, on MinIO."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.folder.store import FolderStore
from runwire_store.memory import MemoryObjectStore
from runwire_store.s3.store import S3Store
from runwire_store.store import PART_BYTES_MIN, NotFound, ObjectStore

MIB = 1024 * 1024
# More than one part of a transfer into S3, and a short last one.
LARGE = 40 * MIB + 12345

S3_BUCKETS = {"versitygw": "bucket", "minio": "minio_bucket"}


class Stop(Exception):  # noqa: N818 - what a caller raises to stop a transfer
    """The caller has seen enough."""


@pytest.fixture(params=["memory", "folder", *S3_BUCKETS])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "memory":
        yield MemoryObjectStore()
    elif request.param == "folder":
        yield FolderStore(tmp_path / "data" / "objects")
    else:
        settings: S3Settings = request.getfixturevalue(S3_BUCKETS[request.param])
        opened = S3Store(settings)
        yield opened
        opened.close()


@pytest.fixture
def content(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


@pytest.fixture
def large(tmp_path: Path, content: Callable[[int], bytes]) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(content(LARGE))
    return path


def test_what_is_put_comes_back(store: ObjectStore, content: Callable[[int], bytes]) -> None:
    """The empty object too; a second put replaces the first."""
    store.check()
    for key, data in (("names/a/empty", b""), ("names/a/some.json", content(70_000))):
        store.put(key, data)
        assert store.get(key) == data
        found = store.stat(key)
        assert found is not None
        assert (found.key, found.size) == (key, len(data))
    store.put("names/a/empty", b"no more")
    assert store.get("names/a/empty") == b"no more"


def test_what_is_missing(store: ObjectStore, tmp_path: Path) -> None:
    """Reading it is NotFound, deleting it nothing, listing it empty."""
    assert store.stat("blobs/aa/none") is None
    assert list(store.list("blobs/")) == []
    with pytest.raises(NotFound, match="blobs/aa/none"):
        store.get("blobs/aa/none")
    with pytest.raises(NotFound, match="blobs/aa/none"):
        store.get_file("blobs/aa/none", tmp_path / "none")
    with pytest.raises(NotFound):
        store.compose("blobs/aa/whole", ["blobs/aa/none"])
    store.delete(["blobs/aa/none", "blobs/none"])
    assert list(tmp_path.glob("none*")) == []


def test_the_time_of_an_object_is_that_of_its_arrival(store: ObjectStore, tmp_path: Path) -> None:
    """Also of a file that was old already: the sweep waits from then on."""
    old = tmp_path / "old.bin"
    old.write_bytes(b"old")
    import os

    os.utime(old, ns=(1, 1))
    before_ns = time.time_ns()
    store.put_file("blobs/aa/old", old)
    found = store.stat("blobs/aa/old")
    assert found is not None
    listed = next(iter(store.list("blobs/")))
    for stat in (found, listed):  # S3 tells a HEAD the second
        assert before_ns - 10**9 <= stat.modified_at_ns <= time.time_ns() + 10**9


def test_a_list_is_ordered_by_key_and_knows_its_prefix(store: ObjectStore) -> None:
    """A prefix may end within a name; '-' sorts before '/' sorts before letters."""
    keys = ["runs/a-b/1", "runs/a/1", "runs/a/2/x", "runs/a/2-x", "runs/ab/1", "staging/a/1"]
    for key in keys:
        store.put(key, key.encode())
    runs = sorted(key for key in keys if key.startswith("runs/"))
    assert [stat.key for stat in store.list("runs/")] == runs
    assert [stat.key for stat in store.list("")] == sorted(keys)
    assert [stat.key for stat in store.list("runs/a/")] == ["runs/a/1", "runs/a/2-x", "runs/a/2/x"]
    assert [stat.key for stat in store.list("runs/a/2")] == ["runs/a/2-x", "runs/a/2/x"]
    assert [stat.key for stat in store.list("runs/ab")] == ["runs/ab/1"]
    assert [stat.size for stat in store.list("runs/ab")] == [len("runs/ab/1")]
    assert list(store.list("runs/nothing/")) == []


def test_a_list_longer_than_a_page(store: ObjectStore) -> None:
    """S3 answers with a thousand keys at a time; a delete takes as many."""
    keys = [f"staging/{number:06d}" for number in range(1203)]
    for key in keys:
        store.put(key, b"")
    assert [stat.key for stat in store.list("staging/")] == keys
    store.delete(iter(keys[:1202]))
    assert [stat.key for stat in store.list("staging/")] == keys[1202:]


def test_a_large_file(store: ObjectStore, large: Path, tmp_path: Path) -> None:
    """Content, size and the sum of the progress are those of the file, there and back."""
    told: list[int] = []
    journal = tmp_path / "journal"
    store.put_file("blobs/aa/large", large, journal=journal, progress=told.append)
    assert sum(told) == LARGE
    assert not journal.exists()
    found = store.stat("blobs/aa/large")
    assert found is not None
    assert found.size == LARGE
    told.clear()
    back = tmp_path / "back.bin"
    store.get_file("blobs/aa/large", back, progress=told.append)
    assert sum(told) == LARGE
    assert digest(back) == digest(large)
    assert not back.with_name("back.bin.part").exists()


@pytest.mark.parametrize("size", [0, 1, 16 * MIB, 16 * MIB + 1])
def test_files_of_sizes_around_one_part(
    store: ObjectStore, content: Callable[[int], bytes], size: int, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(size))
    store.put_file("blobs/aa/file", path)
    store.get_file("blobs/aa/file", tmp_path / "back")
    assert digest(tmp_path / "back") == digest(path)


def test_a_stored_file_does_not_change_with_what_is_read_of_it(
    store: ObjectStore, tmp_path: Path
) -> None:
    """What was fetched is the reader's own."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    store.put_file("blobs/aa/file", path)
    path.unlink()
    store.get_file("blobs/aa/file", tmp_path / "mine")
    with (tmp_path / "mine").open("r+b") as mine:
        mine.write(b"CHANGED")
    assert store.get("blobs/aa/file") == b"content"


def test_the_same_file_again_changes_nothing(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    for _ in range(2):
        store.put_file("blobs/aa/file", path, journal=tmp_path / "journal")
    assert [stat.key for stat in store.list("")] == ["blobs/aa/file"]
    assert path.read_bytes() == store.get("blobs/aa/file") == b"content"


def test_a_missing_file_is_the_callers(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.put_file("blobs/aa/file", tmp_path / "missing")
    assert store.stat("blobs/aa/file") is None


def test_a_stopped_transfer_is_not_visible_and_goes_on(
    store: ObjectStore, large: Path, tmp_path: Path
) -> None:
    """Whatever stops it, here the caller's own progress; the sum of the progress stays right."""
    journal, told = tmp_path / "journal", list[int]()

    def stop(count: int) -> None:
        told.append(count)
        raise Stop

    with suppress(Stop):  # a store that needs one step only is done by then
        store.put_file("blobs/aa/large", large, journal=journal, progress=stop)
        assert len(told) == 1
    assert [s.size for s in store.list("")] in ([], [LARGE])
    told.clear()
    store.put_file("blobs/aa/large", large, journal=journal, progress=told.append)
    assert sum(told) == LARGE
    assert not journal.exists()
    store.get_file("blobs/aa/large", tmp_path / "back")
    assert digest(tmp_path / "back") == digest(large)


@pytest.mark.parametrize("note", [b"", b"\x00\xff torn", b'{"to": 1}\n[1, "x"]\n', b"[]", b"7"])
def test_a_torn_journal_is_no_journal(
    store: ObjectStore, large: Path, tmp_path: Path, note: bytes
) -> None:
    (tmp_path / "journal").write_bytes(note)
    store.put_file("blobs/aa/large", large, journal=tmp_path / "journal")
    found = store.stat("blobs/aa/large")
    assert found is not None
    assert found.size == LARGE


def test_an_interrupted_download_goes_on(store: ObjectStore, large: Path, tmp_path: Path) -> None:
    """What lies in the part file is not fetched again; a part file that is too long is."""
    store.put_file("blobs/aa/large", large)
    whole, path = large.read_bytes(), tmp_path / "back"
    for start in (0, 1, LARGE - 1, LARGE):
        told: list[int] = []
        path.with_name("back.part").write_bytes(whole[:start])
        store.get_file("blobs/aa/large", path, progress=told.append)
        assert sum(told) == LARGE
        assert told[0] == start or start == 0
        assert digest(path) == digest(large)
        path.unlink()
    path.with_name("back.part").write_bytes(whole + b"of another object")
    store.get_file("blobs/aa/large", path)
    assert digest(path) == digest(large)


def test_parts_become_one_object(store: ObjectStore, content: Callable[[int], bytes]) -> None:
    """In the order given, by the store itself; the parts stay."""
    parts = {f"staging/a/{n}": content(PART_BYTES_MIN + n) for n in range(2)}
    parts["staging/a/last"] = content(17)
    for key, data in parts.items():
        store.put(key, data)
    store.compose("blobs/aa/whole", list(parts))
    assert store.get("blobs/aa/whole") == b"".join(parts.values())
    store.compose("blobs/aa/one", ["staging/a/last"])
    assert store.get("blobs/aa/one") == parts["staging/a/last"]
    assert [stat.key for stat in store.list("staging/")] == sorted(parts)
    with pytest.raises(NotFound):
        store.compose("blobs/aa/none", ["staging/a/0", "staging/a/missing"])
    assert store.stat("blobs/aa/none") is None


def test_parts_that_s3_would_not_join_are_refused_everywhere(store: ObjectStore) -> None:
    store.put("staging/a/small", b"small")
    with pytest.raises(ValueError, match="5242880"):
        store.compose("blobs/aa/whole", ["staging/a/small", "staging/a/small"])
    with pytest.raises(ValueError, match="no parts"):
        store.compose("blobs/aa/whole", [])
    assert store.stat("blobs/aa/whole") is None


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../up", "a/../b", "a//b", ".tmp/x", "a/.b", "a b", "ä", "x" * 1025]
)
def test_no_key_leaves_the_store(store: ObjectStore, key: str, tmp_path: Path) -> None:
    """Whatever reaches a store as a key, no path comes of it."""
    calls: list[Callable[[], object]] = [
        lambda: store.put(key, b""),
        lambda: store.put_file(key, tmp_path),
        lambda: store.get(key),
        lambda: store.get_file(key, tmp_path / "x"),
        lambda: store.stat(key),
        lambda: store.delete([key]),
        lambda: store.compose(key, ["a"]),
        lambda: store.compose("a", [key]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="no key of a store"):
            call()


def test_writers_and_readers_at_once(store: ObjectStore, content: Callable[[int], bytes]) -> None:
    """Readers see one whole content or the other, never a mixture."""
    contents = [content(300_000), content(300_000)]
    store.put("blobs/aa/shared", contents[0])
    done, mixed = threading.Event(), list[int]()

    def read() -> None:
        while not done.is_set():
            data = store.get("blobs/aa/shared")
            if data not in contents:
                mixed.append(len(data))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for turn in range(40):
            store.put("blobs/aa/shared", contents[turn % 2])
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert mixed == []


def test_abandoned_transfers_go(store: ObjectStore, large: Path, tmp_path: Path) -> None:
    """Young ones stay; one that was given up starts again from nothing when it is taken up."""
    journal = tmp_path / "journal"
    with suppress(Stop):
        store.put_file("blobs/aa/large", large, journal=journal, progress=_stop)
    assert store.expire_uploads(3600.0) == 0
    store.expire_uploads(-5.0)  # as if it had begun long ago
    store.put_file("blobs/aa/large", large, journal=journal)
    store.get_file("blobs/aa/large", tmp_path / "back")
    assert digest(tmp_path / "back") == digest(large)
    assert store.expire_uploads(-5.0) == 0


def _stop(_count: int) -> None:
    raise Stop


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
