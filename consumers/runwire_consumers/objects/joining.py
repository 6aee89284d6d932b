"""Joining one content from its parts of an upload, its staged ranges, or both.

No object keeps the key of a digest that it does not have: either this process has hashed all pieces
and completes the upload with parts that it sent itself, or the object is read back before it
counts.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from runwire_consumers.core.errors import WorkerError
from runwire_consumers.objects.plan import FilePart, assemble, gather
from runwire_consumers.objects.shared_uploads import ContentId, SharedUploads
from runwire_consumers.objects.staging import Staging
from runwire_store.condemned import LEASE_S, MARKS
from runwire_store.layout import blob_key
from runwire_store.pieces import DIGEST_BYTES, PIECE_BYTES, RANGE_PIECES, StagedRange
from runwire_store.store import NotFound

_READ_BYTES: Final = 16 * 1024 * 1024


class DamagedContent(WorkerError):  # noqa: N818 - a verdict on the artifact
    """The artifact can never be published; the message says why."""


@dataclass(frozen=True, slots=True)
class Content:
    """One content of an artifact. Shapes: `digests` as `PieceList.pieces`."""

    file: ContentId
    size: int
    digests: bytes

    @property
    def key(self) -> str:
        """Key of its blob."""
        return blob_key(self.file[1])

    @property
    def slots(self) -> range:
        """Numbers of the parts of its upload, from 0."""
        return range(-(-self.size // (RANGE_PIECES * PIECE_BYTES)))

    def pieces(self, slot: int) -> range:
        """Return the pieces of a part."""
        count = len(self.digests) // DIGEST_BYTES
        return range(slot * RANGE_PIECES, min(count, (slot + 1) * RANGE_PIECES))


@dataclass(frozen=True, slots=True)
class Plan:
    """How a content is made: from staged `parts`, or by completing `upload`.

    Of an upload: the etags of the parts it has, the slices of the missing parts, and whether this
    process has proved the content (`is_proved`).
    """

    content: Content
    parts: Sequence[FilePart] = ()
    upload: str = ""
    etags: dict[int, str] | None = None
    missing: dict[int, FilePart] | None = None
    is_proved: bool = False


class Joining:
    """Plans and makes contents. Threads: any."""

    def __init__(self, staging: Staging) -> None:
        self._staging, self._store = staging, staging.store

    def plan(self, content: Content, ranges: Sequence[StagedRange]) -> Plan | None:
        """Return how to make a content from the staged pieces; None while pieces are missing."""
        uploads = self._staging.shared_uploads
        if uploads is not None and len(content.slots) > 1:
            plan = self._plan_upload(uploads, content, ranges)
            if plan is not None:
                return plan
        parts = assemble(ranges, content.digests)
        return None if parts is None else Plan(content, parts=parts)

    def make(self, plan: Plan) -> None:
        """Make the content.

        Raises: DamagedContent; NotFound when another worker was faster or a piece is gone: plan
        again.
        """
        if plan.upload:
            self._complete(plan)
            return
        content = plan.content
        artifact = content.file[0]
        keys = [self._whole(content, part).key(artifact) for part in plan.parts]
        known = self._staging.proofs.sha256_of(content.digests)
        _compare(content, known or self._digest_of(keys))
        self._store.compose(content.key, keys)

    def read_back(self, content: Content) -> None:
        """Check that an object has the digest of its key; delete it if not.

        Raises: DamagedContent; NotFound when there is none.
        """
        with self._marked(content) as refresh:
            self._verify(content, refresh)

    def _plan_upload(
        self, uploads: SharedUploads, content: Content, ranges: Sequence[StagedRange]
    ) -> Plan | None:
        upload = uploads.upload_of(content.file)
        if not upload:
            return None
        etags = uploads.own(content.file, content.digests)
        is_proved = self._staging.proofs.sha256_of(content.digests) == content.file[1]
        if not is_proved or len(etags) < len(content.slots):
            try:
                stored = uploads.part_uploads.parts(content.key, upload)
            except NotFound:
                uploads.lose(content.file)
                return None
            by_slot = {number - 1: part.etag for number, part in stored.items()}
            is_proved = is_proved and all(etags.get(slot) == etag for slot, etag in by_slot.items())
            etags = {slot: etag for slot, etag in by_slot.items() if slot in content.slots}
        missing = {
            slot: gather(ranges, content.digests, content.pieces(slot))
            for slot in content.slots
            if slot not in etags
        }
        filled = {slot: part for slot, part in missing.items() if part is not None}
        if len(filled) < len(missing):
            return None
        return Plan(content, upload=upload, etags=etags, missing=filled, is_proved=is_proved)

    def _complete(self, plan: Plan) -> None:
        uploads, content = self._staging.shared_uploads, plan.content
        assert uploads is not None
        assert plan.missing is not None
        uploads.adopt(content.file, plan.upload)
        etags = dict(plan.etags or {})
        for slot, part in plan.missing.items():
            span = content.pieces(slot)
            digests = content.digests[span.start * DIGEST_BYTES : span.stop * DIGEST_BYTES]
            digest = hashlib.sha256(digests).hexdigest()
            etag = uploads.send(content.file, slot, digest, blocks=self._blocks(content, part))
            if not etag:
                raise NotFound(f"the upload of {content.key} is gone")
            etags[slot] = etag
        numbered = {slot + 1: etag for slot, etag in etags.items()}
        try:
            if plan.is_proved:
                uploads.part_uploads.complete(content.key, plan.upload, numbered)
                return
            self._store.put(self._staging.doubt_key(content.file), b"{}")
            with self._marked(content) as refresh:
                uploads.part_uploads.complete(content.key, plan.upload, numbered)
                self._verify(content, refresh)
        except NotFound:
            uploads.distrust(content.file)
            raise

    def _verify(self, content: Content, refresh: Callable[[], None]) -> None:
        uploads = self._staging.shared_uploads
        assert uploads is not None  # only uploads leave a doubt
        digest = hashlib.sha256()
        for start in range(0, content.size, _READ_BYTES):
            refresh()
            length = min(_READ_BYTES, content.size - start)
            digest.update(uploads.part_uploads.read(content.key, start, length))
        try:
            _compare(content, digest.hexdigest())
        except DamagedContent:
            self._store.delete([content.key])
            raise
        self._store.delete([self._staging.doubt_key(content.file)])

    @contextmanager
    def _marked(self, content: Content) -> Iterator[Callable[[], None]]:
        """Make publications of this content wait, as they wait for a sweep's decision.

        The mark's key follows from the content, so a worker that resumes after a crash removes it.
        """
        key = f"{MARKS}{content.file[1]}.json"
        marked_s = float("-inf")

        def refresh() -> None:
            nonlocal marked_s
            if time.monotonic() - marked_s > LEASE_S / 2:
                self._store.put(key, json.dumps([content.file[1]]).encode())
                marked_s = time.monotonic()

        refresh()
        try:
            yield refresh
        finally:
            self._store.delete([key])

    def _whole(self, content: Content, part: FilePart) -> StagedRange:
        """Return a part as one staged object, which is stored here if it does not exist."""
        if len(part) == 1 and part[0].is_whole:
            return part[0].staged
        first, end = part[0].first, part[-1].end
        digests = content.digests[first * DIGEST_BYTES : end * DIGEST_BYTES]
        staged = StagedRange.of(content.file[1], first, digests)
        self._store.put(staged.key(content.file[0]), b"".join(self._blocks(content, part)))
        return staged

    def _blocks(self, content: Content, part: FilePart) -> list[memoryview]:
        blocks = []
        for piece in part:
            begin = (piece.first - piece.staged.first) * PIECE_BYTES
            stop = (piece.end - piece.staged.first) * PIECE_BYTES
            whole = self._store.get(piece.staged.key(content.file[0]))
            blocks.append(memoryview(whole)[begin:stop])
        return blocks

    def _digest_of(self, keys: Sequence[str]) -> str:
        digest = hashlib.sha256()
        for key in keys:
            digest.update(self._store.get(key))
        return digest.hexdigest()


def _compare(content: Content, sha256: str) -> None:
    if sha256 != content.file[1]:
        raise DamagedContent(
            f"the pieces of {content.file[1]} make {sha256}: the file changed while it was sent; "
            "log the artifact again"
        )
