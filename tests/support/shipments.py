"""Artifacts cut into the messages that an agent sends on the Kafka route."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runwire_schemas.events import ArtifactEvent, Chunk
from runwire_store.announce import SHIPPED, artifact_event
from runwire_store.manifest import CheckpointFacts, FileEntry, Manifest
from runwire_store.pieces import PIECE_BYTES, PieceList
from support.builders import AT_NS, WRITER


@dataclass(frozen=True)
class Shipped:
    """One artifact: its content by path, its pieces in order, and the event behind them."""

    manifest: Manifest
    contents: Mapping[str, bytes]
    chunks: list[Chunk]
    event: ArtifactEvent

    @property
    def artifact(self) -> str:
        return self.manifest.artifact


def content(size: int, chosen: random.Random) -> bytes:
    """Bytes of that size, different in each piece, cheap to make."""
    block = chosen.randbytes(4096)
    filling = (block * (PIECE_BYTES // len(block)))[8:]
    indexes = range(-(-size // PIECE_BYTES))
    return b"".join(index.to_bytes(8, "big") + filling for index in indexes)[:size]


def shipped(
    contents: Mapping[str, bytes],
    *,
    number: int = 1,
    checkpoint: CheckpointFacts | None = None,
    **overrides: Any,
) -> Shipped:
    """An artifact of those files; `number` makes its id."""
    entries = tuple(
        FileEntry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in contents.items()
    )
    fields: dict[str, Any] = {
        "artifact": f"{number:032x}",
        "project": "tests",
        "run_id": "run-1",
        "attempt": "attempt-1",
        "writer": WRITER,
        "rank": 0,
        "name": "checkpoint-run-1" if checkpoint else "model",
        "type": "checkpoint" if checkpoint else "file",
        "created_at_ns": AT_NS + number,
    }
    manifest = Manifest(
        **{**fields, **overrides}, files=entries, checkpoint=checkpoint, route="kafka"
    )
    chunks: list[Chunk] = []
    pieces: dict[str, bytes] = {}
    for entry, data in zip(entries, contents.values(), strict=True):
        if entry.size and entry.sha256 not in pieces:
            own = list(chunks_of(manifest, entry.sha256, data))
            pieces[entry.sha256] = b"".join(chunk.digest for chunk in own)
            chunks += own
    text = PieceList(manifest=manifest, pieces=pieces).to_json()
    event = artifact_event(manifest, SHIPPED, at_ns=AT_NS + number, text=text)
    return Shipped(manifest, contents, chunks, event)


def chunks_of(manifest: Manifest, sha256: str, data: bytes) -> Iterator[Chunk]:
    """The pieces of one content."""
    count = -(-len(data) // PIECE_BYTES)
    for index in range(count):
        payload = data[index * PIECE_BYTES : (index + 1) * PIECE_BYTES]
        yield Chunk(
            project=manifest.project,
            run_id=manifest.run_id,
            artifact=manifest.artifact,
            sha256=sha256,
            file_bytes=len(data),
            index=index,
            count=count,
            digest=hashlib.sha256(payload).digest(),
            payload=payload,
        )
