"""Pieces, the list of their digests, and staged ranges."""

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
    RANGE_PIECES,
    RANGE_PIECES_MIN,
    PieceList,
    StagedRange,
    piece_count,
    piece_list_key,
    piece_size,
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
def test_piece_sizes_sum_to_the_file_size(size: int) -> None:
    """Count and sizes of the pieces cover a file exactly."""
    sizes = [piece_size(size, index) for index in range(piece_count(size))]
    assert sum(sizes) == size
    assert all(sizes)
    assert all(found == PIECE_BYTES for found in sizes[:-1])
    assert piece_size(size, piece_count(size)) == 0
    assert piece_size(size, -1) == 0


def test_range_sizes_fit_the_part_limits_of_s3() -> None:
    """Ranges are long enough to be joined on the server and the largest file has 10,000 parts."""
    assert RANGE_PIECES_MIN * PIECE_BYTES >= PART_BYTES_MIN
    assert RANGE_PIECES >= RANGE_PIECES_MIN


def test_piece_list_survives_its_json() -> None:
    """A list of pieces reads back equal from its own text."""
    size = 3 * PIECE_BYTES + 1
    entries = (
        FileEntry(path="a/b.bin", size=size, sha256=SHA256),
        FileEntry(path="again.bin", size=size, sha256=SHA256),
        FileEntry(path="empty", size=0, sha256=hashlib.sha256().hexdigest()),
        FileEntry(path="far.bin", size=9, sha256="ef" * 32, uri="file:///data/far.bin"),
    )
    shipment = PieceList(manifest=manifest(*entries), pieces={SHA256: digests(4)})
    text = shipment.to_json()
    assert PieceList.from_json(text) == shipment
    assert PieceList.from_json(text).to_json() == text
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
def test_damaged_piece_list_is_refused_with_a_reason(change: Any, said: str) -> None:
    """A list with a wrong field raises ManifestError that names the fault."""
    entry = FileEntry(path="a.bin", size=3 * PIECE_BYTES + 1, sha256=SHA256)
    text = PieceList(manifest=manifest(entry), pieces={SHA256: digests(4)}).to_json()
    with pytest.raises(ManifestError, match=said):
        PieceList.from_json(changed(text, change))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "1", "[" * 100_000])
def test_text_that_is_no_piece_list_is_refused(text: str) -> None:
    """Text of another kind raises ManifestError."""
    with pytest.raises(ManifestError):
        PieceList.from_json(text)


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
def test_piece_list_with_an_impossible_entry_is_refused(entries: tuple[FileEntry, ...]) -> None:
    """An entry whose digest or size no content can have raises ManifestError."""
    shipment = PieceList(
        manifest=manifest(*entries), pieces={e.sha256: digests(1) for e in entries}
    )
    with pytest.raises(ManifestError):
        PieceList.from_json(shipment.to_json())


def test_staged_range_is_parsed_from_its_own_key(seed: int) -> None:
    """The key of a range holds all of its fields."""
    chosen = random.Random(seed)
    for _ in range(50):
        first, count = chosen.randrange(10_000), chosen.randrange(1, 40)
        run = StagedRange.of(SHA256, first, digests(count))
        assert StagedRange.parse(run.key(ARTIFACT), ARTIFACT) == run
        assert (run.count, run.end) == (count, first + count)


def test_staged_ranges_sort_like_their_keys() -> None:
    """Ranges of a content sort by their first piece, as their keys do."""
    runs = [StagedRange.of(SHA256, first, digests(3)) for first in (0, 9, 10, 99, 160_000)]
    assert sorted(run.key(ARTIFACT) for run in runs) == [run.key(ARTIFACT) for run in runs]


@pytest.mark.parametrize(
    "key", [piece_list_key(ARTIFACT), "blobs/x", "", f"staging/{ARTIFACT}/x/1-1-1"]
)
def test_keys_of_other_objects_parse_to_no_range(key: str) -> None:
    """Keys of other staged objects, or of another artifact, are no ranges."""
    assert StagedRange.parse(key, ARTIFACT) is None
