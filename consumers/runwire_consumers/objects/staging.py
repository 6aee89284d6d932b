"""Pieces and manifests on their way: what lies under `staging/`, and when it may be forgotten.

Invariants, whoever dies where:
1. What a batch holds is in the store before the batch's offsets are committed.
2. Who puts something looks afterwards whether the artifact is published; who publishes looks
   afterwards for what was put. So nothing stays behind of an artifact that is finished.
3. The manifest goes last: while it is there, somebody still has to finish the artifact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from runwire_consumers.objects.plan import cut, stretches
from runwire_consumers.objects.proofs import Proofs
from runwire_schemas.events import Chunk
from runwire_schemas.objects.layout import (
    STAGING,
    artifact_key,
    blob_key,
    checkpoints_prefix,
    staging_prefix,
)
from runwire_schemas.objects.pieces import (
    FILE_BYTES_MAX,
    StagedRun,
    piece_count,
    piece_size,
    shipped_key,
)
from runwire_schemas.objects.store import ObjectStore

# Puts at once: enough to keep a store busy while the next part is put together; each holds a copy
# of its run.
PUTS: Final = 2
_SHIPPED_NAME: Final = shipped_key("0" * 32).rpartition("/")[2]


def fault_of(chunk: Chunk) -> str:
    """Return why a piece cannot be part of any file, "" when it can."""
    try:
        staging_prefix(chunk.artifact), blob_key(chunk.sha256)
    except ValueError as error:
        return str(error)
    if not 0 < chunk.file_bytes <= FILE_BYTES_MAX:
        return f"a file of {chunk.file_bytes} bytes cannot come in pieces, at most {FILE_BYTES_MAX}"
    size, count = piece_size(chunk.file_bytes, chunk.index), piece_count(chunk.file_bytes)
    if chunk.count != count or size == 0 or size != len(chunk.payload):
        return (
            f"piece {chunk.index} of {chunk.count} has {len(chunk.payload)} bytes; of a file of "
            f"{chunk.file_bytes} bytes there are {count} pieces, and this one has {size} bytes"
        )
    if hashlib.sha256(chunk.payload).digest() != chunk.digest:
        return "the piece is damaged: its SHA-256 is not the one it was sent with"
    return ""


class Staging:
    """Puts pieces and manifests into a store. Threads: any; callers of `add` take turns."""

    def __init__(self, store: ObjectStore, *, puts: int = PUTS) -> None:
        self.store = store
        self.proofs = Proofs()
        self._puts = ThreadPoolExecutor(puts, "runwire-put")

    def add(self, chunks: Iterable[Chunk]) -> None:
        """Store pieces that have no fault; when it returns they are safe. Raises: StoreError."""
        files: dict[tuple[str, str], dict[int, Chunk]] = {}
        for chunk in chunks:
            files.setdefault((chunk.artifact, chunk.sha256), {}).setdefault(chunk.index, chunk)
        runs = [
            [pieces[index] for index in run]
            for pieces in files.values()
            for stretch in stretches(pieces)
            for run in cut(stretch)
        ]
        puts = [self._puts.submit(self._put, run) for run in runs]
        for run in runs:
            for piece in run:
                self.proofs.add(
                    (piece.artifact, piece.sha256),
                    piece.index,
                    piece.count,
                    digest=piece.digest,
                    payload=piece.payload,
                )
        failures = [failure for put in puts if (failure := put.exception()) is not None]
        if failures:
            raise failures[0]

    def add_shipped(self, artifact: str, data: bytes) -> None:
        """Store what "shipped" said."""
        self.store.put(shipped_key(artifact), data)

    def is_shipped(self, artifact: str) -> bool:
        """Whether an artifact waits to be finished."""
        return self.store.stat(shipped_key(artifact)) is not None

    def is_published(self, project: str, run_id: str, artifact: str) -> bool:
        """Whether a manifest of the artifact is visible; of checkpoints the step is not known."""
        if self.store.stat(artifact_key(project, run_id, artifact)) is not None:
            return True
        ending = f"-{artifact}.json"
        manifests = self.store.list(checkpoints_prefix(project, run_id))
        return any(stat.key.endswith(ending) for stat in manifests)

    def shipped(self) -> dict[str, int]:
        """Return the artifacts that wait to be finished, and since when by the store's clock."""
        found: dict[str, int] = {}
        for stat in self.store.list(STAGING):
            artifact = stat.key.removeprefix(STAGING).partition("/")[0]
            if stat.key.removeprefix(f"{STAGING}{artifact}/") == _SHIPPED_NAME:
                found[artifact] = stat.modified_at_ns
        return found

    def runs(self, artifact: str) -> dict[str, list[StagedRun]]:
        """Return what lies there, by content."""
        found: dict[str, list[StagedRun]] = {}
        for stat in self.store.list(staging_prefix(artifact)):
            run = StagedRun.parse(stat.key, artifact)
            if run is not None:
                found.setdefault(run.sha256, []).append(run)
        return found

    def forget(self, artifact: str) -> None:
        """Remove everything of an artifact that is finished, also what is put meanwhile."""
        shipped = shipped_key(artifact)
        self.store.delete(key for key in self._keys(artifact) if key != shipped)
        self.store.delete([shipped])
        # Who put a piece before this line may have seen the manifest, and left both to us.
        self.store.delete(self._keys(artifact))

    def close(self) -> None:
        """End the threads."""
        self._puts.shutdown(cancel_futures=True)

    def _keys(self, artifact: str) -> Sequence[str]:
        return [stat.key for stat in self.store.list(staging_prefix(artifact))]

    def _put(self, run: Sequence[Chunk]) -> None:
        digests = b"".join(piece.digest for piece in run)
        staged = StagedRun.of(run[0].sha256, run[0].index, digests)
        data = b"".join(piece.payload for piece in run)
        self.store.put(staged.key(run[0].artifact), data)
