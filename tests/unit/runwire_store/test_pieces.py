"""Pieces, the list of their digests, and what lies in staging."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_store.manifest import FileEntry, Manifest, ManifestError
from runwire_store.pieces import (
    PIECE_BYTES,
    RUN_PIECES,
    RUN_PIECES_MIN,
    Shipment,
    StagedRun,
    piece_count,
    piece_size,
    shipped_key,
)
from runwire_store.store import PART_BYTES_MIN

ARTIFACT = "ab" * 16
SHA256 = hashlib.sha256(b"content").hexdigest()


def manifest(*entries: FileEntry) -> Manifest:
    return Manifest(
        artifact=ARTIFACT,
        project="p",
        run_id="r",
        attempt="1",
        writer="cd" * 16,
        rank=0,
        name="model",
        type="file",
        created_at_ns=1,
        files=entries,
        route="kafka",
    )


def digests(count: int) -> bytes:
    return b"".join(hashlib.sha256(bytes([i % 256])).digest() for i in range(count))


@given(st.integers(min_value=0, max_value=10 * PIECE_BYTES + 7))
def test_pieces_make_the_file(size: int) -> None:
    sizes = [piece_size(size, index) for index in range(piece_count(size))]
    assert sum(sizes) == size
    assert all(sizes)
    assert all(found == PIECE_BYTES for found in sizes[:-1])
    assert piece_size(size, piece_count(size)) == 0
    assert piece_size(size, -1) == 0


def test_the_sizes_of_runs_suit_s3() -> None:
    assert RUN_PIECES_MIN * PIECE_BYTES >= PART_BYTES_MIN
    assert RUN_PIECES >= RUN_PIECES_MIN


def test_a_shipment_survives_its_json() -> None:
    size = 3 * PIECE_BYTES + 1
    entries = (
        FileEntry(path="a/b.bin", size=size, sha256=SHA256),
        FileEntry(path="again.bin", size=size, sha256=SHA256),
        FileEntry(path="empty", size=0, sha256=hashlib.sha256().hexdigest()),
        FileEntry(path="far.bin", size=9, sha256="ef" * 32, uri="file:///data/far.bin"),
    )
    shipment = Shipment(manifest=manifest(*entries), pieces={SHA256: digests(4)})
    text = shipment.to_json()
    assert Shipment.from_json(text) == shipment
    assert Shipment.from_json(text).to_json() == text
    assert shipment.sizes == {SHA256: size, hashlib.sha256().hexdigest(): 0}


def changed(text: str, change: Any) -> str:
    fields = json.loads(text)
    change(fields)
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.pop("pieces"), "no list"),
        (lambda f: f.update(pieces=[]), "no list"),
        (lambda f: f["pieces"].update({SHA256: "?"}), "no list"),
        (lambda f: f["pieces"].clear(), "0 digests of pieces, 4 are needed"),
        (lambda f: f["pieces"].update({SHA256: "AAAA"}), "digests of pieces"),
        (lambda f: f.update(piece_bytes=1024), "upgrade the worker"),
        (lambda f: f["manifest"].update(digest="00"), "damaged"),
        (lambda f: f["manifest"].pop("name"), "no manifest"),
        (lambda f: f.update(manifest=7), "no manifest"),
    ],
)
def test_what_is_no_shipment_is_refused(change: Any, said: str) -> None:
    entry = FileEntry(path="a.bin", size=3 * PIECE_BYTES + 1, sha256=SHA256)
    text = Shipment(manifest=manifest(entry), pieces={SHA256: digests(4)}).to_json()
    with pytest.raises(ManifestError, match=said):
        Shipment.from_json(changed(text, change))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "1", "[" * 100_000])
def test_text_that_is_something_else_is_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        Shipment.from_json(text)


@pytest.mark.parametrize(
    "entries",
    [
        (
            FileEntry(path="a", size=1, sha256=SHA256),
            FileEntry(path="b", size=2, sha256=SHA256),
        ),
        (FileEntry(path="a", size=-1, sha256=SHA256),),
        (FileEntry(path="a", size=1.5, sha256=SHA256),),  # type: ignore[arg-type]
        (FileEntry(path="a", size=1, sha256="../../x"),),
    ],
)
def test_entries_that_no_content_can_have_are_refused(entries: tuple[FileEntry, ...]) -> None:
    shipment = Shipment(manifest=manifest(*entries), pieces={e.sha256: digests(1) for e in entries})
    with pytest.raises(ManifestError):
        Shipment.from_json(shipment.to_json())


def test_a_run_is_found_by_its_key(seed: int) -> None:
    chosen = random.Random(seed)
    for _ in range(50):
        first, count = chosen.randrange(10_000), chosen.randrange(1, 40)
        run = StagedRun.of(SHA256, first, digests(count))
        assert StagedRun.parse(run.key(ARTIFACT), ARTIFACT) == run
        assert (run.count, run.end) == (count, first + count)


def test_runs_sort_by_their_first_piece_as_their_keys_do() -> None:
    runs = [StagedRun.of(SHA256, first, digests(3)) for first in (0, 9, 10, 99, 160_000)]
    assert sorted(run.key(ARTIFACT) for run in runs) == [run.key(ARTIFACT) for run in runs]


@pytest.mark.parametrize(
    "key", [shipped_key(ARTIFACT), "blobs/x", "", f"staging/{ARTIFACT}/x/1-1-1"]
)
def test_what_is_no_run_is_told_apart(key: str) -> None:
    assert StagedRun.parse(key, ARTIFACT) is None
