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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from runwire_consumers.objects.plan import cut, stretches
from runwire_consumers.objects.proofs import Proofs
from runwire_consumers.objects.transfers import File, Transfers
from runwire_schemas.events import Chunk
from runwire_store.layout import (
    STAGING,
    artifact_key,
    blob_key,
    checkpoints_prefix,
    staging_prefix,
)
from runwire_store.part_uploads import Uploads
from runwire_store.pieces import (
    FILE_BYTES_MAX,
    RUN_PIECES,
    StagedRun,
    piece_count,
    piece_size,
    shipped_key,
)
from runwire_store.store import ObjectStore

# Puts at once: enough to keep a store busy while the next part is put together; each holds a copy
# of its run.
PUTS: Final = 2
DOUBT_NAME: Final = "doubt.json"
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


@dataclass(slots=True)
class Staged:
    """What lies in staging of one artifact: runs by content, and contents to be read back."""

    runs: dict[str, list[StagedRun]] = field(default_factory=dict)
    doubted: set[str] = field(default_factory=set)


class Staging:
    """Puts pieces and manifests into a store. Threads: any; callers of `add` take turns."""

    def __init__(
        self, store: ObjectStore, *, uploads: Uploads | None = None, puts: int = PUTS
    ) -> None:
        self.store = store
        self.proofs = Proofs()
        self.transfers = None if uploads is None else Transfers(store, uploads)
        self._puts = ThreadPoolExecutor(puts, "runwire-put")

    def add(self, chunks: Iterable[Chunk]) -> None:
        """Store pieces that have no fault; when it returns they are safe. Raises: StoreError."""
        files: dict[File, dict[int, Chunk]] = {}
        for chunk in chunks:
            files.setdefault((chunk.artifact, chunk.sha256), {}).setdefault(chunk.index, chunk)
        puts = [put for file, pieces in files.items() for put in self._begin(file, pieces)]
        for file, pieces in files.items():
            for index, piece in sorted(pieces.items()):
                self.proofs.add(
                    file, index, piece.count, digest=piece.digest, payload=piece.payload
                )
        failures = [failure for put in puts if (failure := put.exception()) is not None]
        if failures:
            raise failures[0]

    def _begin(self, file: File, pieces: dict[int, Chunk]) -> list[Future[None]]:
        """Begin to store pieces of one file: as parts of its upload, or as runs."""
        full: list[list[Chunk]] = []
        if self.transfers is not None and next(iter(pieces.values())).count > RUN_PIECES:
            full, pieces = self.transfers.split(file, pieces)
        runs = [
            [pieces[index] for index in run]
            for stretch in stretches(pieces)
            for run in cut(stretch)
        ]
        puts = [self._puts.submit(self._put_part, part) for part in full]
        return puts + [self._puts.submit(self._put_run, run) for run in runs]

    def _put_part(self, part: Sequence[Chunk]) -> None:
        assert self.transfers is not None
        if not self.transfers.put(part):
            self._put_run(part)

    def _put_run(self, run: Sequence[Chunk]) -> None:
        digests = b"".join(piece.digest for piece in run)
        staged = StagedRun.of(run[0].sha256, run[0].index, digests)
        data = b"".join(piece.payload for piece in run)
        self.store.put(staged.key(run[0].artifact), data)

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

    def look(self, artifact: str) -> Staged:
        """Return what lies there."""
        found = Staged()
        for stat in self.store.list(staging_prefix(artifact)):
            run = StagedRun.parse(stat.key, artifact)
            if run is not None:
                found.runs.setdefault(run.sha256, []).append(run)
            elif stat.key.endswith(f"/{DOUBT_NAME}"):
                found.doubted.add(stat.key.split("/")[-2])
        return found

    def doubt_key(self, file: File) -> str:
        """Return where it is noted that a content has to be read back before it counts."""
        return f"{staging_prefix(file[0])}{file[1]}/{DOUBT_NAME}"

    def forget(self, artifact: str) -> None:
        """Remove everything of an artifact that is finished, also what is put meanwhile."""
        shipped = shipped_key(artifact)
        keys = self._keys(artifact)
        if self.transfers is not None:
            self.transfers.forget(artifact, keys)
        self.store.delete(key for key in keys if key != shipped)
        self.store.delete([shipped])
        # Who put a piece before this line may have seen the manifest, and left both to us.
        if keys := self._keys(artifact):
            if self.transfers is not None:
                self.transfers.forget(artifact, keys)
            self.store.delete(keys)

    def close(self) -> None:
        """End the threads."""
        self._puts.shutdown(cancel_futures=True)

    def _keys(self, artifact: str) -> Sequence[str]:
        return [stat.key for stat in self.store.list(staging_prefix(artifact))]
