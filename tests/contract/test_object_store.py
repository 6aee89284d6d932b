"""Contract of every object store: memory, folder, versitygw, MinIO."""

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


def test_put_object_reads_back_and_second_put_replaces_it(
    store: ObjectStore, content: Callable[[int], bytes]
) -> None:
    """An object, also an empty one, reads back equal; a second put under its key replaces it."""
    store.check()
    for key, data in (("names/a/empty", b""), ("names/a/some.json", content(70_000))):
        store.put(key, data)
        assert store.get(key) == data
        found = store.stat(key)
        assert found is not None
        assert (found.key, found.size) == (key, len(data))
    store.put("names/a/empty", b"no more")
    assert store.get("names/a/empty") == b"no more"


def test_missing_object_is_not_found_and_deletes_silently(
    store: ObjectStore, tmp_path: Path
) -> None:
    """Reading a missing object raises NotFound, deleting it does nothing, listing skips it."""
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


def test_object_time_is_its_arrival_not_the_file_time(store: ObjectStore, tmp_path: Path) -> None:
    """The time of an object is the time of the upload, however old the file; the sweep relies on
    it."""
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


def test_list_is_ordered_by_key_below_its_prefix(store: ObjectStore) -> None:
    """A prefix may end within a name; keys come in byte order: '-' before '/' before letters."""
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


def test_list_and_delete_work_beyond_one_page(store: ObjectStore) -> None:
    """Lists and deletes of more than a thousand keys, the page of S3, are complete."""
    keys = [f"staging/{number:06d}" for number in range(1203)]
    for key in keys:
        store.put(key, b"")
    assert [stat.key for stat in store.list("staging/")] == keys
    store.delete(iter(keys[:1202]))
    assert [stat.key for stat in store.list("staging/")] == keys[1202:]


def test_large_file_transfers_whole_with_exact_progress(
    store: ObjectStore, large: Path, tmp_path: Path
) -> None:
    """A file of several parts comes back equal, and the progress adds up to its size both ways."""
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
def test_file_transfers_whole_when_its_size_is_near_one_part(
    store: ObjectStore, content: Callable[[int], bytes], size: int, tmp_path: Path
) -> None:
    """Empty files and files at the border of one part come back equal."""
    path = tmp_path / "file"
    path.write_bytes(content(size))
    store.put_file("blobs/aa/file", path)
    store.get_file("blobs/aa/file", tmp_path / "back")
    assert digest(tmp_path / "back") == digest(path)


def test_stored_object_keeps_content_when_a_reader_edits_its_copy(
    store: ObjectStore, tmp_path: Path
) -> None:
    """A fetched file is the reader's own: writing into it does not change the object."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    store.put_file("blobs/aa/file", path)
    path.unlink()
    store.get_file("blobs/aa/file", tmp_path / "mine")
    with (tmp_path / "mine").open("r+b") as mine:
        mine.write(b"CHANGED")
    assert store.get("blobs/aa/file") == b"content"


def test_second_upload_of_a_file_changes_nothing(store: ObjectStore, tmp_path: Path) -> None:
    """Uploading a file twice leaves one object and the source file as they were."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    for _ in range(2):
        store.put_file("blobs/aa/file", path, journal=tmp_path / "journal")
    assert [stat.key for stat in store.list("")] == ["blobs/aa/file"]
    assert path.read_bytes() == store.get("blobs/aa/file") == b"content"


def test_put_file_raises_file_not_found_for_a_missing_source(
    store: ObjectStore, tmp_path: Path
) -> None:
    """A missing source file is the caller's mistake, and no object appears."""
    with pytest.raises(FileNotFoundError):
        store.put_file("blobs/aa/file", tmp_path / "missing")
    assert store.stat("blobs/aa/file") is None


def test_stopped_upload_stays_invisible_and_resumes(
    store: ObjectStore, large: Path, tmp_path: Path
) -> None:
    """An upload that its caller stops shows no object; with its journal it resumes to the right
    sum."""
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
def test_upload_starts_anew_when_its_journal_is_damaged(
    store: ObjectStore, large: Path, tmp_path: Path, note: bytes
) -> None:
    """A torn or foreign journal is ignored, and the upload is complete."""
    (tmp_path / "journal").write_bytes(note)
    store.put_file("blobs/aa/large", large, journal=tmp_path / "journal")
    found = store.stat("blobs/aa/large")
    assert found is not None
    assert found.size == LARGE


def test_download_resumes_from_its_part_file(
    store: ObjectStore, large: Path, tmp_path: Path
) -> None:
    """Bytes in the part file are not fetched again; a part file that is too long is replaced."""
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


def test_compose_joins_parts_in_order_and_keeps_them(
    store: ObjectStore, content: Callable[[int], bytes]
) -> None:
    """The store joins parts in the order given and keeps them; a missing one makes no object."""
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


def test_compose_refuses_parts_that_s3_could_not_join(store: ObjectStore) -> None:
    """Every store refuses small parts before the last one, and an empty list of parts."""
    store.put("staging/a/small", b"small")
    with pytest.raises(ValueError, match="5242880"):
        store.compose("blobs/aa/whole", ["staging/a/small", "staging/a/small"])
    with pytest.raises(ValueError, match="no parts"):
        store.compose("blobs/aa/whole", [])
    assert store.stat("blobs/aa/whole") is None


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../up", "a/../b", "a//b", ".tmp/x", "a/.b", "a b", "ä", "x" * 1025]
)
def test_every_operation_refuses_keys_outside_the_store(
    store: ObjectStore, key: str, tmp_path: Path
) -> None:
    """No operation accepts an absolute, climbing, hidden or otherwise malformed key."""
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


def test_readers_see_whole_contents_while_a_writer_replaces_them(
    store: ObjectStore, content: Callable[[int], bytes]
) -> None:
    """Readers see one content or the other, never a mixture."""
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


def test_expire_uploads_drops_old_transfers_and_keeps_young_ones(
    store: ObjectStore, large: Path, tmp_path: Path
) -> None:
    """Young transfers stay; one that was dropped starts from nothing when it is resumed."""
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
