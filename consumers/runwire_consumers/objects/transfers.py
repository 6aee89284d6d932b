"""Large files on their way: parts of an S3 upload of the final object, known to all workers.

Part n of a file holds its pieces 16(n-1) to 16n-1, so a part that is sent again, by whomever,
changes nothing. The upload's id lies in staging, where the first one to write it wins. What does
not fill a part goes to staging as runs; the pieces behind the last full part are also kept in
memory, because the next batch usually fills it. docs/decisions/0007 has the reasons and figures.
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
from runwire_store.part_uploads import Uploads
from runwire_store.pieces import DIGEST_BYTES, PIECE_BYTES, RUN_PIECES
from runwire_store.store import NotFound, ObjectStore

# Pieces that wait for the rest of their part, of all files; the longest such wait is one part.
TAILS_BYTES_MAX: Final = RUN_PIECES * PIECE_BYTES
# The etags of a file of 4 GiB take about 60 KB.
FILES_MAX: Final = 256
POINTER_NAME: Final = "upload.json"

File = tuple[str, str]
"""Artifact and SHA-256."""


@dataclass(slots=True)
class Transfer:
    """What this process knows of one file's upload; `own` has etag and digest of each part sent.

    `upload` is empty before the first part, and once the store has forgotten it.
    """

    upload: str = ""
    is_gone: bool = False
    own: dict[int, tuple[str, str]] = field(default_factory=dict)
    tail: dict[int, Chunk] = field(default_factory=dict)


class Transfers:
    """Threads: `split` one at a time, the rest any."""

    def __init__(self, store: ObjectStore, uploads: Uploads) -> None:
        self._store, self.uploads = store, uploads
        self._known: OrderedDict[File, Transfer] = OrderedDict()
        self._lock = threading.Lock()

    def split(
        self, file: File, pieces: Mapping[int, Chunk]
    ) -> tuple[list[list[Chunk]], dict[int, Chunk]]:
        """Return the full parts that these pieces bring about, and the pieces that are left."""
        transfer = self._of(file)
        if transfer.is_gone:
            return [], dict(pieces)
        there = {**transfer.tail, **pieces}
        count = next(iter(pieces.values())).count
        full: list[list[Chunk]] = []
        rest = dict(pieces)
        for slot in sorted({index // RUN_PIECES for index in pieces}):
            span = range(slot * RUN_PIECES, min(count, (slot + 1) * RUN_PIECES))
            if all(index in there for index in span):
                full.append([there.pop(index) for index in span])
                for index in span:
                    rest.pop(index, None)
        transfer.tail = there
        self._bound()
        if full and not transfer.upload:
            transfer.upload = self._take_up(file)
            if not transfer.upload:  # somebody has finished the file meanwhile
                self.lose(file)
                return [], dict(pieces)
        return full, rest

    def put(self, part: Sequence[Chunk]) -> bool:
        """Send a full part; false when the store has forgotten the upload."""
        file = (part[0].artifact, part[0].sha256)
        digest = hashlib.sha256(b"".join(piece.digest for piece in part)).hexdigest()
        blocks = [piece.payload for piece in part]
        return bool(self.send(file, part[0].index // RUN_PIECES, digest, blocks=blocks))

    def send(
        self, file: File, slot: int, digest: str, *, blocks: Sequence[bytes | memoryview]
    ) -> str:
        """Send a part whose pieces' digests have this SHA-256; return its etag, "" as `put`."""
        transfer = self._of(file)
        try:
            etag = self.uploads.put_part(
                blob_key(file[1]), transfer.upload, slot + 1, blocks=blocks
            )
        except NotFound:
            self.lose(file)
            return ""
        with self._lock:
            transfer.own[slot] = (etag, digest)
        return etag

    def upload_of(self, file: File) -> str:
        """Return the id of a file's upload, "" when there is none (any more)."""
        with self._lock:
            known = self._known.get(file)
            if known is not None and (known.upload or known.is_gone):
                return known.upload
        return self._pointed(file)

    def own(self, file: File, digests: bytes) -> dict[int, str]:
        """Return the etags of the parts that this process has sent with exactly this content."""
        with self._lock:
            known = self._known.get(file)
            sent = {} if known is None else dict(known.own)
        wide = RUN_PIECES * DIGEST_BYTES
        return {
            slot: etag
            for slot, (etag, digest) in sent.items()
            if hashlib.sha256(digests[slot * wide : (slot + 1) * wide]).hexdigest() == digest
        }

    def adopt(self, file: File, upload: str) -> None:
        """Go on with an upload that another process has begun."""
        transfer = self._of(file)
        with self._lock:
            transfer.upload = transfer.upload or upload

    def lose(self, file: File) -> None:
        """Note that the store has forgotten a file's upload: the rest goes to staging."""
        transfer = self._of(file)
        with self._lock:
            transfer.upload, transfer.is_gone = "", True
            transfer.own, transfer.tail = {}, {}

    def distrust(self, file: File) -> None:
        """Note that the parts may be others than those sent here: ask the store which it has."""
        transfer = self._of(file)
        with self._lock:
            transfer.own = {}

    def forget(self, artifact: str, keys: Sequence[str]) -> None:
        """Give up the uploads whose ids lie at these keys; completed ones are no error."""
        with self._lock:
            for file in [file for file in self._known if file[0] == artifact]:
                del self._known[file]
        prefix = staging_prefix(artifact)
        for key in keys:
            sha256, _, name = key.removeprefix(prefix).partition("/")
            if name == POINTER_NAME and (upload := self._pointed((artifact, sha256))):
                self.uploads.abandon(blob_key(sha256), upload)

    def _of(self, file: File) -> Transfer:
        with self._lock:
            transfer = self._known.setdefault(file, Transfer())
            self._known.move_to_end(file)
            if len(self._known) > FILES_MAX:
                self._known.popitem(last=False)
            return transfer

    def _bound(self) -> None:
        """Let go of the tails of the files that were quiet longest."""
        with self._lock:
            left = TAILS_BYTES_MAX
            for transfer in reversed(self._known.values()):
                left -= sum(len(piece.payload) for piece in transfer.tail.values())
                if left < 0:
                    transfer.tail = {}

    def _take_up(self, file: File) -> str:
        """Return the file's upload, begun here unless somebody was first."""
        found = self._pointed(file)
        if found:
            return found
        key = blob_key(file[1])
        mine = self.uploads.begin(key)
        self.uploads.put_new(_pointer_key(file), json.dumps({"upload": mine}).encode())
        found = self._pointed(file)  # also where it was stored: another may have come at once
        if found != mine:
            self.uploads.abandon(key, mine)
        return found

    def _pointed(self, file: File) -> str:
        try:
            return str(json.loads(self._store.get(_pointer_key(file)))["upload"])
        except NotFound:
            return ""


def _pointer_key(file: File) -> str:
    artifact, sha256 = file
    return f"{staging_prefix(artifact)}{sha256}/{POINTER_NAME}"
