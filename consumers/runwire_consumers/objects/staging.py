"""Staging: pieces and manifests of unfinished artifacts below `staging/`, and their removal.

Invariants, wherever a worker is killed:
1. The pieces of a batch are in the store before the batch's offsets are committed.
2. After staging pieces a worker checks whether the artifact is published; after publishing it
   checks for newly staged pieces. So nothing of a finished artifact stays behind.
3. The manifest is deleted last: while it exists, a worker still has to finish the artifact.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from runwire_consumers.objects.plan import cut, stretches
from runwire_consumers.objects.shared_uploads import ContentId, SharedUploads
from runwire_schemas.events import Chunk
from runwire_store.layout import (
    STAGING,
    artifact_key,
    blob_key,
    checkpoints_prefix,
    staging_prefix,
)
from runwire_store.part_uploads import PartUploads
from runwire_store.pieces import (
    FILE_BYTES_MAX,
    RANGE_PIECES,
    StagedRange,
    piece_count,
    piece_list_key,
    piece_size,
)
from runwire_store.store import ObjectStore

# Puts at once: enough to keep a store busy while the next object is assembled; each holds a copy.
PUTS: Final = 2
# A growing hash takes about half a kilobyte, a proof less.
_GROWING_MAX: Final = 1024
_KNOWN_MAX: Final = 16_384
DOUBT_NAME: Final = "doubt.json"
_LIST_NAME: Final = piece_list_key("0" * 32).rpartition("/")[2]


def fault_of(chunk: Chunk) -> str:
    """Return the reason why a piece cannot belong to any file, "" if it can."""
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
        return "the piece is damaged: its SHA-256 differs from the one it was sent with"
    return ""


class _Growing:
    __slots__ = ("content", "digests", "next_index")

    def __init__(self) -> None:
        self.content, self.digests = hashlib.sha256(), hashlib.sha256()
        self.next_index = 0


class Proofs:
    """Proofs that pieces make the content they claim, computed while the pieces arrive in order.

    A proof states the SHA-256 of the pieces with these digests, so the file need not be read back
    before it is joined. Proofs are lost with the process. Threads: `add` one at a time, `sha256_of`
    any.
    """

    def __init__(self) -> None:
        self._growing: OrderedDict[ContentId, _Growing] = OrderedDict()
        self._known: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def add(
        self, file: ContentId, index: int, count: int, *, digest: bytes, payload: bytes
    ) -> None:
        """Hash piece `index` of `count` if it is the next one of its file."""
        growing = self._growing.get(file)
        if growing is None:
            if index:
                return
            growing = self._growing[file] = _Growing()
            if len(self._growing) > _GROWING_MAX:
                self._growing.popitem(last=False)
        if index != growing.next_index:
            return
        growing.content.update(payload)
        growing.digests.update(digest)
        growing.next_index += 1
        self._growing.move_to_end(file)
        if growing.next_index == count:
            del self._growing[file]
            with self._lock:
                self._known[growing.digests.hexdigest()] = growing.content.hexdigest()
                if len(self._known) > _KNOWN_MAX:
                    self._known.popitem(last=False)

    def sha256_of(self, digests: bytes) -> str | None:
        """Return the SHA-256 of the pieces with these digests, None without a proof."""
        with self._lock:
            return self._known.get(hashlib.sha256(digests).hexdigest())


@dataclass(slots=True)
class StagedContents:
    """The staged ranges of one artifact by content, and the contents to be read back."""

    ranges: dict[str, list[StagedRange]] = field(default_factory=dict)
    doubted: set[str] = field(default_factory=set)


class Staging:
    """Puts pieces and manifests into a store. Threads: any; callers of `add` take turns."""

    def __init__(
        self, store: ObjectStore, *, part_uploads: PartUploads | None = None, puts: int = PUTS
    ) -> None:
        self.store = store
        self.proofs = Proofs()
        self.shared_uploads = None if part_uploads is None else SharedUploads(store, part_uploads)
        self._puts = ThreadPoolExecutor(puts, "runwire-put")

    def add(self, chunks: Iterable[Chunk]) -> None:
        """Store pieces without a fault; they are durable when it returns. Raises: StoreError."""
        files: dict[ContentId, dict[int, Chunk]] = {}
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

    def _begin(self, file: ContentId, pieces: dict[int, Chunk]) -> list[Future[None]]:
        """Start to store pieces of one file: as parts of its upload, or as staged ranges."""
        full: list[list[Chunk]] = []
        if self.shared_uploads is not None and next(iter(pieces.values())).count > RANGE_PIECES:
            full, pieces = self.shared_uploads.split(file, pieces)
        ranges = [
            [pieces[index] for index in part]
            for stretch in stretches(pieces)
            for part in cut(stretch)
        ]
        puts = [self._puts.submit(self._put_part, part) for part in full]
        return puts + [self._puts.submit(self._put_range, part) for part in ranges]

    def _put_part(self, part: Sequence[Chunk]) -> None:
        assert self.shared_uploads is not None
        if not self.shared_uploads.put(part):
            self._put_range(part)

    def _put_range(self, pieces: Sequence[Chunk]) -> None:
        digests = b"".join(piece.digest for piece in pieces)
        staged = StagedRange.of(pieces[0].sha256, pieces[0].index, digests)
        data = b"".join(piece.payload for piece in pieces)
        self.store.put(staged.key(pieces[0].artifact), data)

    def add_shipped(self, artifact: str, data: bytes) -> None:
        """Store the list of pieces that "shipped" carried."""
        self.store.put(piece_list_key(artifact), data)

    def is_shipped(self, artifact: str) -> bool:
        """Whether an artifact's list of pieces is staged."""
        return self.store.stat(piece_list_key(artifact)) is not None

    def is_published(self, project: str, run_id: str, artifact: str) -> bool:
        """Whether the artifact's manifest is published; a checkpoint's step is not known here."""
        if self.store.stat(artifact_key(project, run_id, artifact)) is not None:
            return True
        ending = f"-{artifact}.json"
        manifests = self.store.list(checkpoints_prefix(project, run_id))
        return any(stat.key.endswith(ending) for stat in manifests)

    def shipped(self) -> dict[str, int]:
        """Return the unfinished artifacts and the time of their list, by the store's clock."""
        since_ns: dict[str, int] = {}
        for stat in self.store.list(STAGING):
            artifact = stat.key.removeprefix(STAGING).partition("/")[0]
            if stat.key.removeprefix(f"{STAGING}{artifact}/") == _LIST_NAME:
                since_ns[artifact] = stat.modified_at_ns
        return since_ns

    def look(self, artifact: str) -> StagedContents:
        """Return the staged ranges and doubted contents of an artifact."""
        contents = StagedContents()
        for stat in self.store.list(staging_prefix(artifact)):
            staged = StagedRange.parse(stat.key, artifact)
            if staged is not None:
                contents.ranges.setdefault(staged.sha256, []).append(staged)
            elif stat.key.endswith(f"/{DOUBT_NAME}"):
                contents.doubted.add(stat.key.split("/")[-2])
        return contents

    def doubt_key(self, file: ContentId) -> str:
        """Return the key of the note that a content has to be read back before it counts."""
        return f"{staging_prefix(file[0])}{file[1]}/{DOUBT_NAME}"

    def forget(self, artifact: str) -> None:
        """Delete the staging of a finished artifact, including pieces staged meanwhile."""
        list_key = piece_list_key(artifact)
        keys = self._keys(artifact)
        if self.shared_uploads is not None:
            self.shared_uploads.forget(artifact, keys)
        self.store.delete(key for key in keys if key != list_key)
        self.store.delete([list_key])
        # A worker that staged a piece before this line saw the manifest and left the piece to us.
        if keys := self._keys(artifact):
            if self.shared_uploads is not None:
                self.shared_uploads.forget(artifact, keys)
            self.store.delete(keys)

    def close(self) -> None:
        """End the threads."""
        self._puts.shutdown(cancel_futures=True)

    def _keys(self, artifact: str) -> Sequence[str]:
        return [stat.key for stat in self.store.list(staging_prefix(artifact))]
