"""Large files as part uploads: parts of other content are never published."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from runwire_consumers.objects.completion import Completion
from runwire_consumers.objects.staging import Staging
from runwire_schemas.events import ArtifactEvent, Chunk
from runwire_store.layout import BLOBS, STAGING, blob_key
from runwire_store.memory import MemoryObjectStore
from runwire_store.part_uploads import MemoryPartUploads
from runwire_store.pieces import PIECE_BYTES, RANGE_PIECES
from runwire_store.store import StoreAway
from support.builders import AT_NS
from support.shipments import Shipped, content, shipped

MIB = 1024 * 1024


class Killed(BaseException):
    """The process is gone in the middle of a call."""


class Process:
    """One worker process on a store that outlives it."""

    def __init__(self, store: MemoryObjectStore, uploads: MemoryPartUploads) -> None:
        self.told: list[ArtifactEvent] = []
        self.staging = Staging(store, part_uploads=uploads, puts=1)
        self.completion = Completion(
            self.staging, self.told.extend, clock_ns=lambda: AT_NS + 10**9, threads=1
        )

    def add(self, chunks: Sequence[Chunk]) -> None:
        self.staging.add(chunks)

    def finish(self, one: Shipped) -> str:
        self.staging.add_shipped(one.artifact, (one.event.manifest or "").encode())
        return self.completion.finish(one.artifact)


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore()


@pytest.fixture
def uploads(store: MemoryObjectStore) -> MemoryPartUploads:
    return MemoryPartUploads(store)


@pytest.fixture
def one(seed: int) -> Shipped:
    return shipped({"a.bin": content(30 * MIB + 9, random.Random(seed))})


def variant(chunk: Chunk) -> Chunk:
    """The same piece with other content, and a digest that fits it."""
    payload = b"\1" * len(chunk.payload)
    return replace(chunk, payload=payload, digest=hashlib.sha256(payload).digest())


def is_whole(store: MemoryObjectStore, one: Shipped) -> bool:
    key = f"{BLOBS}{one.manifest.files[0].sha256[:2]}/{one.manifest.files[0].sha256}"
    return store.stat(key) is not None and store.get(key) == one.contents["a.bin"]


def test_nothing_is_joined_or_read_back_when_one_process_saw_it_all(
    store: MemoryObjectStore, uploads: MemoryPartUploads, one: Shipped
) -> None:
    """Whatever the bounds of its batches: one part after the other, and that is all."""
    verbs: list[str] = []
    store.trouble = lambda verb, key: verbs.append(verb) if key.startswith(BLOBS) else None
    process = Process(store, uploads)
    for start in range(0, len(one.chunks), 7):
        process.add(one.chunks[start : start + 7])
    assert process.finish(one) == "complete"
    store.trouble = None
    assert is_whole(store, one)
    assert list(store.list(STAGING)) == []
    assert len(uploads) == 0
    parts = -(-len(one.chunks) // RANGE_PIECES)
    assert [verb for verb in verbs if verb != "stat"] == [
        "begin", *["put_part"] * parts, "complete", "abandon",
    ]  # fmt: skip


@pytest.mark.parametrize("cut", [1, 15, 16, 17, 40, 60])
def test_second_process_resumes_the_upload_of_a_dead_one(
    store: MemoryObjectStore, uploads: MemoryPartUploads, one: Shipped, cut: int
) -> None:
    """Parts that a dead process sent are used, not sent again."""
    Process(store, uploads).add(one.chunks[:cut])
    process = Process(store, uploads)
    process.add(one.chunks[cut:])
    assert process.finish(one) == "complete"
    assert is_whole(store, one)
    assert list(store.list(STAGING)) == []
    assert len(uploads) == 0


def test_third_process_completes_parts_sent_by_two_others(
    store: MemoryObjectStore, uploads: MemoryPartUploads, one: Shipped
) -> None:
    """Parts of several processes make one object."""
    Process(store, uploads).add(one.chunks[30:])
    Process(store, uploads).add(one.chunks[:30])
    assert Process(store, uploads).finish(one) == "complete"
    assert is_whole(store, one)
    assert list(store.list(STAGING)) == []


@pytest.mark.parametrize("is_other_process", [False, True])
def test_part_replaced_by_other_content_is_detected(
    store: MemoryObjectStore, uploads: MemoryPartUploads, one: Shipped, *, is_other_process: bool
) -> None:
    """A forger sends valid pieces, then others of the same numbers: nothing wrong is published."""
    process = Process(store, uploads)
    process.add(one.chunks)
    forger = Process(store, uploads) if is_other_process else process
    forger.add([variant(chunk) for chunk in one.chunks[:RANGE_PIECES]])
    outcome = process.finish(one)
    if outcome == "complete":
        assert is_whole(store, one)
    else:
        assert outcome == "failed"
        assert list(store.list(BLOBS)) == []
        assert [event.event for event in process.told] == ["failed"]
    assert list(store.list(STAGING)) == []


def test_unproved_wrong_content_is_read_back_and_deleted(
    store: MemoryObjectStore, uploads: MemoryPartUploads, one: Shipped
) -> None:
    """Without a proof the object is read back; a wrong one fails the artifact."""
    Process(store, uploads).add([variant(chunk) for chunk in one.chunks[:32]])
    process = Process(store, uploads)
    process.add(one.chunks[32:])
    assert process.finish(one) == "failed"
    assert "the file changed" in (process.told[0].reason or "")
    assert list(store.list(BLOBS)) == []
    assert list(store.list(STAGING)) == []


def test_worker_killed_while_reading_back_leaves_no_unverified_object(
    store: MemoryObjectStore, uploads: MemoryPartUploads, one: Shipped
) -> None:
    """The next one reads it back again; meanwhile nobody publishes this content."""
    Process(store, uploads).add(one.chunks[:32])
    process = Process(store, uploads)
    process.add(one.chunks[32:])

    is_dead = False

    def dies(verb: str, key: str) -> None:
        nonlocal is_dead
        is_dead = is_dead or (verb == "get" and key.startswith(BLOBS))
        if is_dead:
            raise Killed

    store.trouble = dies
    with pytest.raises(Killed):
        process.finish(one)
    store.trouble = None
    assert store.stat(one.manifest.key) is None
    twin = shipped(dict(one.contents), number=2, name="twin")
    with pytest.raises(StoreAway, match="deciding"):
        Process(store, uploads).finish(twin)
    assert Process(store, uploads).finish(one) == "complete"
    assert Process(store, uploads).finish(twin) == "complete"
    assert is_whole(store, one)
    assert list(store.list(STAGING)) == []


def test_upload_forgotten_by_the_store_needs_its_pieces_again(
    store: MemoryObjectStore, uploads: MemoryPartUploads, one: Shipped
) -> None:
    """Pieces of the lost upload have to be sent again; agents do so after a day."""
    process = Process(store, uploads)
    process.add(one.chunks[:40])
    uploads.abandon(blob_key(one.manifest.files[0].sha256), "u1")
    assert len(uploads) == 0
    process.add(one.chunks[40:])
    assert process.finish(one) == ""
    process.add(one.chunks[:40])
    assert process.finish(one) == "complete"
    assert is_whole(store, one)
    assert list(store.list(STAGING)) == []


def test_pieces_of_many_files_held_in_memory_stay_within_one_part(
    store: MemoryObjectStore, uploads: MemoryPartUploads, seed: int
) -> None:
    """Pieces of twelve files in turn: what is kept of them in memory is one part's worth."""
    chosen = random.Random(seed)
    ours = [
        shipped({"a.bin": content(9 * MIB + n, chosen)}, number=n, name=f"n{n}")
        for n in range(1, 13)
    ]
    process = Process(store, uploads)
    shared = process.staging.shared_uploads
    assert shared is not None
    for index in range(19):
        process.add([one.chunks[index] for one in ours])
        assert shared.held_bytes <= RANGE_PIECES * PIECE_BYTES
    for one in ours:
        assert process.finish(one) == "complete"
        assert is_whole(store, one)
    assert list(store.list(STAGING)) == []
    assert len(uploads) == 0
