"""Part uploads of large files to their final object, shared by all workers.

Part n of a file has its pieces 16(n-1) to 16n-1, so sending a part again, from any worker, changes
nothing. The upload's id is in staging; the first worker to write it wins. Pieces that do not fill a
part are staged as ranges; those behind the last full part are also kept in memory, because the next
batch usually fills it. docs/decisions/0007 has the reasons and figures.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from runwire_schemas.events import Chunk
from runwire_store.layout import blob_key, staging_prefix
from runwire_store.part_uploads import PartUploads
from runwire_store.pieces import DIGEST_BYTES, PIECE_BYTES, RANGE_PIECES
from runwire_store.store import NotFound, ObjectStore

# Pieces kept in memory until their part is full, of all files: at most one part in size.
TAILS_BYTES_MAX: Final = RANGE_PIECES * PIECE_BYTES
# The etags of a file of 4 GiB take about 60 KB.
FILES_MAX: Final = 256
POINTER_NAME: Final = "upload.json"

ContentId = tuple[str, str]
"""Artifact and SHA-256 of one content."""


@dataclass(slots=True)
class SharedUpload:
    """One file's upload as this process knows it.

    Shapes: `own` has etag and digest of each part that this process sent; `upload` is the id, empty
    before the first part and once the store no longer knows the upload.
    """

    upload: str = ""
    is_gone: bool = False
    own: dict[int, tuple[str, str]] = field(default_factory=dict)
    tail: dict[int, Chunk] = field(default_factory=dict)


class SharedUploads:
    """The uploads of all files in progress. Threads: `split` one at a time, the rest any."""

    def __init__(self, store: ObjectStore, part_uploads: PartUploads) -> None:
        self._store, self.part_uploads = store, part_uploads
        self._known: OrderedDict[ContentId, SharedUpload] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Bytes of the pieces kept in memory until their part is full."""
        with self._lock:
            return sum(_tail_bytes(shared) for shared in self._known.values())

    def split(
        self, file: ContentId, pieces: Mapping[int, Chunk]
    ) -> tuple[list[list[Chunk]], dict[int, Chunk]]:
        """Return the parts that these pieces complete, and the pieces that are left over."""
        shared = self._of(file)
        if shared.is_gone:
            return [], dict(pieces)
        there = {**shared.tail, **pieces}
        count = next(iter(pieces.values())).count
        full: list[list[Chunk]] = []
        rest = dict(pieces)
        for slot in sorted({index // RANGE_PIECES for index in pieces}):
            span = range(slot * RANGE_PIECES, min(count, (slot + 1) * RANGE_PIECES))
            if all(index in there for index in span):
                full.append([there.pop(index) for index in span])
                for index in span:
                    rest.pop(index, None)
        shared.tail = there
        self._bound()
        if full and not shared.upload:
            shared.upload = self._find_or_begin(file)
            if not shared.upload:  # another worker has finished the file meanwhile
                self.lose(file)
                return [], dict(pieces)
        return full, rest

    def put(self, part: Sequence[Chunk]) -> bool:
        """Send a full part; false when the store no longer knows the upload."""
        file = (part[0].artifact, part[0].sha256)
        digest = hashlib.sha256(b"".join(piece.digest for piece in part)).hexdigest()
        blocks = [piece.payload for piece in part]
        return bool(self.send(file, part[0].index // RANGE_PIECES, digest, blocks=blocks))

    def send(
        self, file: ContentId, slot: int, digest: str, *, blocks: Sequence[bytes | memoryview]
    ) -> str:
        """Send a part whose pieces' digests have this SHA-256; return its etag, "" as `put`."""
        shared = self._of(file)
        try:
            etag = self.part_uploads.put_part(
                blob_key(file[1]), shared.upload, slot + 1, blocks=blocks
            )
        except NotFound:
            self.lose(file)
            return ""
        with self._lock:
            shared.own[slot] = (etag, digest)
        return etag

    def upload_of(self, file: ContentId) -> str:
        """Return the id of a file's upload, "" when there is none (any more)."""
        with self._lock:
            known = self._known.get(file)
            if known is not None and (known.upload or known.is_gone):
                return known.upload
        return self._read_pointer(file)

    def own(self, file: ContentId, digests: bytes) -> dict[int, str]:
        """Return the etags of the parts that this process has sent with exactly these digests."""
        with self._lock:
            known = self._known.get(file)
            sent = {} if known is None else dict(known.own)
        wide = RANGE_PIECES * DIGEST_BYTES
        return {
            slot: etag
            for slot, (etag, digest) in sent.items()
            if hashlib.sha256(digests[slot * wide : (slot + 1) * wide]).hexdigest() == digest
        }

    def adopt(self, file: ContentId, upload: str) -> None:
        """Continue an upload that another process has started."""
        shared = self._of(file)
        with self._lock:
            shared.upload = shared.upload or upload

    def lose(self, file: ContentId) -> None:
        """Record that the store no longer knows a file's upload: the rest is staged."""
        shared = self._of(file)
        with self._lock:
            shared.upload, shared.is_gone = "", True
            shared.own, shared.tail = {}, {}

    def distrust(self, file: ContentId) -> None:
        """Record that parts sent here may have been replaced: the store has to be asked."""
        shared = self._of(file)
        with self._lock:
            shared.own = {}

    def forget(self, artifact: str, keys: Sequence[str]) -> None:
        """Abort the uploads whose ids are at these keys; completed ones are no error."""
        with self._lock:
            for file in [file for file in self._known if file[0] == artifact]:
                del self._known[file]
        prefix = staging_prefix(artifact)
        for key in keys:
            sha256, _, name = key.removeprefix(prefix).partition("/")
            if name == POINTER_NAME and (upload := self._read_pointer((artifact, sha256))):
                self.part_uploads.abandon(blob_key(sha256), upload)

    def _of(self, file: ContentId) -> SharedUpload:
        with self._lock:
            shared = self._known.setdefault(file, SharedUpload())
            self._known.move_to_end(file)
            if len(self._known) > FILES_MAX:
                self._known.popitem(last=False)
            return shared

    def _bound(self) -> None:
        """Drop the tails of the files that got no pieces for longest."""
        with self._lock:
            left = TAILS_BYTES_MAX
            for shared in reversed(self._known.values()):
                left -= _tail_bytes(shared)
                if left < 0:
                    shared.tail = {}

    def _find_or_begin(self, file: ContentId) -> str:
        """Return the file's upload, started here unless another worker was first."""
        upload = self._read_pointer(file)
        if upload:
            return upload
        key = blob_key(file[1])
        mine = self.part_uploads.begin(key)
        self.part_uploads.put_new(_pointer_key(file), json.dumps({"upload": mine}).encode())
        upload = self._read_pointer(
            file
        )  # even if it was stored: another worker may have written at the same time
        if upload != mine:
            self.part_uploads.abandon(key, mine)
        return upload

    def _read_pointer(self, file: ContentId) -> str:
        try:
            return str(json.loads(self._store.get(_pointer_key(file)))["upload"])
        except NotFound:
            return ""


def _tail_bytes(shared: SharedUpload) -> int:
    return sum(len(piece.payload) for piece in shared.tail.values())


def _pointer_key(file: ContentId) -> str:
    artifact, sha256 = file
    return f"{staging_prefix(artifact)}{sha256}/{POINTER_NAME}"
