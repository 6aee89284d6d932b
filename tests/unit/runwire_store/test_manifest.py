"""Manifests: JSON with the right names and impossible values is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runwire_store.manifest import CheckpointFacts, FileEntry, Manifest, ManifestError

GOOD = Manifest(
    artifact="a" * 32,
    project="p",
    run_id="r",
    attempt="a",
    writer="w",
    rank=0,
    name="n",
    type="checkpoint",
    created_at_ns=1,
    files=(FileEntry(path="x", size=1, sha256="0" * 64),),
    aliases=("best",),
    metadata={"a": [1]},
    checkpoint=CheckpointFacts(step=3, metrics={"loss": float("nan"), "n": 1}),
)


def bent(part: str, **fields: Any) -> bytes:
    """The manifest with other values; what is computed from them fits where it can."""
    said = json.loads(GOOD.to_json())
    place = {"": said, "file": said["files"][0], "facts": said["checkpoint"]}[part]
    place.update(fields)
    said["size"] = said["files"][0]["size"]
    said["digest"] = said["files"][0]["sha256"]
    return json.dumps(said).encode()


def test_manifest_with_valid_types_is_read() -> None:
    """The manifest that the other tests damage is valid itself."""
    known = Manifest.from_json(bent(""))
    assert (known.key, known.files) == (GOOD.key, GOOD.files)


@pytest.mark.parametrize(
    ("part", "fields"),
    [
        ("", {"name": 7}),
        ("", {"name": "\ud800"}),
        ("", {"rank": True}),
        ("", {"rank": -1}),
        ("", {"rank": 2**31}),
        ("", {"created_at_ns": 2**63}),
        ("", {"created_at_ns": 1.5}),
        ("", {"aliases": "best"}),
        ("", {"aliases": [1]}),
        ("", {"aliases": ["\ud800"]}),
        ("", {"metadata": []}),
        ("", {"route": None}),
        ("file", {"size": True}),
        ("file", {"size": 1.0}),
        ("file", {"size": -1}),
        ("file", {"sha256": 7}),
        ("file", {"uri": None}),
        ("file", {"path": 7}),
        ("facts", {"step": -1}),
        ("facts", {"step": "3"}),
        ("facts", {"kind": "other"}),
        ("facts", {"world_size": 0}),
        ("facts", {"metrics": []}),
        ("facts", {"metrics": {"loss": "1"}}),
        ("facts", {"retention": 7}),
        ("facts", {"is_best": 1}),
        ("facts", {"duration_s": "x"}),
    ],
)
def test_manifest_with_values_of_other_types_is_refused(part: str, fields: dict[str, Any]) -> None:
    """Whoever reads it may rely on its annotations."""
    with pytest.raises(ManifestError, match="this is no manifest"):
        Manifest.from_json(bent(part, **fields))


def test_deeply_nested_json_is_refused_as_a_manifest_error() -> None:
    """JSON nested beyond the parser's depth raises ManifestError, not RecursionError."""
    with pytest.raises(ManifestError, match="this is no manifest"):
        Manifest.from_json(b"[" * 100_000)
