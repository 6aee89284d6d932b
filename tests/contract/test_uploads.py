"""Contract of uploads made part by part: memory, versitygw, MinIO."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.memory import MemoryObjectStore
from runwire_store.part_uploads import MemoryPartUploads, PartUploads, part_uploads_of
from runwire_store.s3.store import S3Store
from runwire_store.store import PART_BYTES_MIN, NotFound, ObjectStore

KEY = "blobs/aa/made-of-parts"
BUCKETS = {"versitygw": "bucket", "minio": "minio_bucket"}


@pytest.fixture(params=["memory", *BUCKETS])
def store_and_uploads(request: pytest.FixtureRequest) -> Iterator[tuple[ObjectStore, PartUploads]]:
    if request.param == "memory":
        store = MemoryObjectStore()
        yield store, MemoryPartUploads(store)
        return
    settings: S3Settings = request.getfixturevalue(BUCKETS[request.param])
    s3 = S3Store(settings)
    uploads = part_uploads_of(s3)
    assert uploads is not None
    yield s3, uploads
    s3.close()


@pytest.fixture
def pieces(seed: int) -> dict[int, bytes]:
    chosen = random.Random(seed)
    return {n: chosen.randbytes(PART_BYTES_MIN if n < 3 else 77) for n in (1, 2, 3)}


def test_complete_joins_parts_sent_in_any_order(
    store_and_uploads: tuple[ObjectStore, PartUploads], pieces: dict[int, bytes]
) -> None:
    """Parts may come in any order and twice, from callers that know only the id; nothing shows
    before."""
    store, uploads = store_and_uploads
    upload = uploads.begin(KEY)
    assert uploads.parts(KEY, upload) == {}
    halves = {n: [data[:1000], b"", memoryview(data)[1000:]] for n, data in pieces.items()}
    etags = {n: uploads.put_part(KEY, upload, n, blocks=halves[n]) for n in (3, 1, 2, 1)}
    found = uploads.parts(KEY, upload)
    assert {n: (part.size, part.etag) for n, part in found.items()} == {
        n: (len(data), etags[n]) for n, data in pieces.items()
    }
    assert store.stat(KEY) is None
    assert list(store.list("blobs/")) == []
    uploads.complete(KEY, upload, etags)
    assert store.get(KEY) == b"".join(pieces[n] for n in (1, 2, 3))
    assert uploads.read(KEY, PART_BYTES_MIN - 2, 4) == (pieces[1][-2:] + pieces[2][:2])


def test_ended_upload_is_not_found_and_its_object_stays(
    store_and_uploads: tuple[ObjectStore, PartUploads], pieces: dict[int, bytes]
) -> None:
    """Completed or abandoned: every call raises NotFound, and the completed object stays."""
    store, uploads = store_and_uploads
    other = "blobs/aa/given-up"
    kept, given_up = uploads.begin(KEY), uploads.begin(other)
    etags = {3: uploads.put_part(KEY, kept, 3, blocks=[pieces[3]])}
    uploads.complete(KEY, kept, etags)
    uploads.abandon(other, given_up)
    uploads.abandon(other, given_up)
    for key, gone in ((KEY, kept), (other, given_up)):
        with pytest.raises(NotFound):
            uploads.put_part(key, gone, 1, blocks=[pieces[1]])
        with pytest.raises(NotFound):
            uploads.parts(key, gone)
    with pytest.raises(NotFound):
        uploads.complete(other, given_up, etags)
    with suppress(NotFound):  # versitygw looks whether the object is just that already
        uploads.complete(KEY, kept, etags)
    assert store.get(KEY) == pieces[3]
    assert store.stat(other) is None
    with pytest.raises(NotFound):
        uploads.read("blobs/aa/none", 0, 1)


def test_complete_refuses_a_part_that_was_replaced(
    store_and_uploads: tuple[ObjectStore, PartUploads], pieces: dict[int, bytes]
) -> None:
    """`complete` names each part by its etag; no other content becomes the object."""
    store, uploads = store_and_uploads
    upload = uploads.begin(KEY)
    etags = {n: uploads.put_part(KEY, upload, n, blocks=[pieces[n]]) for n in (1, 2, 3)}
    other = uploads.put_part(KEY, upload, 2, blocks=[pieces[1]])
    with pytest.raises(NotFound):
        uploads.complete(KEY, upload, etags)
    assert store.stat(KEY) is None
    uploads.complete(KEY, upload, {**etags, 2: other})
    assert store.get(KEY) == pieces[1] + pieces[1] + pieces[3]


def test_put_new_succeeds_for_the_first_writer_only(
    store_and_uploads: tuple[ObjectStore, PartUploads],
) -> None:
    """Of concurrent writers one wins, and a later one cannot replace its content."""
    store, uploads = store_and_uploads
    key = "staging/aa/first.json"
    with ThreadPoolExecutor(4) as threads:
        won = list(threads.map(lambda n: uploads.put_new(key, b"%d" % n), range(4)))
    assert any(won)
    first = store.get(key)
    assert won[int(first)]
    assert not uploads.put_new(key, b"later")
    assert store.get(key) == first


def test_parts_lists_all_parts_beyond_one_page(
    store_and_uploads: tuple[ObjectStore, PartUploads],
) -> None:
    """An upload of more than a thousand parts, the page of S3, is listed whole."""
    _, uploads = store_and_uploads
    upload = uploads.begin(KEY)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: uploads.put_part(KEY, upload, n, blocks=[b"x"]), range(1, 1103)))
    assert list(uploads.parts(KEY, upload)) == list(range(1, 1103))
    uploads.abandon(KEY, upload)
