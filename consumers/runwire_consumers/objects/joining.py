"""One content out of what its pieces became: parts of an upload, runs in staging, or both.

Nothing stays under the name of a digest that it does not have: either this process has seen all
pieces and names the parts that it sent itself, or the object is read back before it counts.
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
from runwire_consumers.objects.plan import Part, assemble, gather
from runwire_consumers.objects.staging import Staging
from runwire_consumers.objects.transfers import File, Transfers
from runwire_store.condemned import LEASE_S, MARKS
from runwire_store.layout import blob_key
from runwire_store.pieces import DIGEST_BYTES, PIECE_BYTES, RUN_PIECES, StagedRun
from runwire_store.store import NotFound

# What is read back at a time.
_READ_BYTES: Final = 16 * 1024 * 1024


class DamagedContent(WorkerError):  # noqa: N818 - a verdict on the artifact
    """The artifact can never be published; the message says why."""


@dataclass(frozen=True, slots=True)
class Content:
    """One content of an artifact. Shapes: `digests` as `Shipment.pieces`."""

    file: File
    size: int
    digests: bytes

    @property
    def key(self) -> str:
        """Where it will lie."""
        return blob_key(self.file[1])

    @property
    def slots(self) -> range:
        """The parts that an upload of it has, from 0."""
        return range(-(-self.size // (RUN_PIECES * PIECE_BYTES)))

    def pieces(self, slot: int) -> range:
        """Return the pieces of a part."""
        count = len(self.digests) // DIGEST_BYTES
        return range(slot * RUN_PIECES, min(count, (slot + 1) * RUN_PIECES))


@dataclass(frozen=True, slots=True)
class Plan:
    """How a content is made: from `parts`, else by `upload`.

    Of an upload: etags of the parts it has, what the missing ones are made of, and whether all of
    it is known to be what it should be.
    """

    content: Content
    parts: Sequence[Part] = ()
    upload: str = ""
    etags: dict[int, str] | None = None
    missing: dict[int, Part] | None = None
    is_own: bool = False


class Joining:
    """Plans and makes contents. Threads: any."""

    def __init__(self, staging: Staging) -> None:
        self._staging, self._store = staging, staging.store

    def plan(self, content: Content, runs: Sequence[StagedRun]) -> Plan | None:
        """Return how to make a content of what is there; None while pieces are missing."""
        transfers = self._staging.transfers
        if transfers is not None and len(content.slots) > 1:
            plan = self._plan_upload(transfers, content, runs)
            if plan is not None:
                return plan
        parts = assemble(runs, content.digests)
        return None if parts is None else Plan(content, parts=parts)

    def make(self, plan: Plan) -> None:
        """Make the content.

        Raises: DamagedContent; NotFound when another worker was faster or something is gone: plan
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
        """Make sure that an object is what its name says; remove it when it is not.

        Raises: DamagedContent; NotFound when there is none.
        """
        with self._marked(content) as refresh:
            self._verify(content, refresh)

    def _plan_upload(
        self, transfers: Transfers, content: Content, runs: Sequence[StagedRun]
    ) -> Plan | None:
        upload = transfers.upload_of(content.file)
        if not upload:
            return None
        etags = transfers.own(content.file, content.digests)
        is_own = self._staging.proofs.sha256_of(content.digests) == content.file[1]
        if not is_own or len(etags) < len(content.slots):
            try:
                there = transfers.uploads.parts(content.key, upload)
            except NotFound:
                transfers.lose(content.file)
                return None
            found = {number - 1: part.etag for number, part in there.items()}
            is_own = is_own and all(etags.get(slot) == etag for slot, etag in found.items())
            etags = {slot: etag for slot, etag in found.items() if slot in content.slots}
        missing = {
            slot: gather(runs, content.digests, content.pieces(slot))
            for slot in content.slots
            if slot not in etags
        }
        filled = {slot: part for slot, part in missing.items() if part is not None}
        if len(filled) < len(missing):
            return None
        return Plan(content, upload=upload, etags=etags, missing=filled, is_own=is_own)

    def _complete(self, plan: Plan) -> None:
        transfers, content = self._staging.transfers, plan.content
        assert transfers is not None
        assert plan.missing is not None
        transfers.adopt(content.file, plan.upload)
        etags = dict(plan.etags or {})
        for slot, part in plan.missing.items():
            span = content.pieces(slot)
            digests = content.digests[span.start * DIGEST_BYTES : span.stop * DIGEST_BYTES]
            digest = hashlib.sha256(digests).hexdigest()
            etag = transfers.send(content.file, slot, digest, blocks=self._blocks(content, part))
            if not etag:
                raise NotFound(f"the upload of {content.key} is gone")
            etags[slot] = etag
        numbered = {slot + 1: etag for slot, etag in etags.items()}
        try:
            if plan.is_own:
                transfers.uploads.complete(content.key, plan.upload, numbered)
                return
            self._store.put(self._staging.doubt_key(content.file), b"{}")
            with self._marked(content) as refresh:
                transfers.uploads.complete(content.key, plan.upload, numbered)
                self._verify(content, refresh)
        except NotFound:
            transfers.distrust(content.file)
            raise

    def _verify(self, content: Content, refresh: Callable[[], None]) -> None:
        transfers = self._staging.transfers
        assert transfers is not None  # nothing is in doubt without uploads
        digest = hashlib.sha256()
        for start in range(0, content.size, _READ_BYTES):
            refresh()
            length = min(_READ_BYTES, content.size - start)
            digest.update(transfers.uploads.read(content.key, start, length))
        try:
            _compare(content, digest.hexdigest())
        except DamagedContent:
            self._store.delete([content.key])
            raise
        self._store.delete([self._staging.doubt_key(content.file)])

    @contextmanager
    def _marked(self, content: Content) -> Iterator[Callable[[], None]]:
        """Have others wait who publish this content, as they wait for a sweep to decide.

        The mark's key follows from the content: who goes on after a crash lifts it too.
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

    def _whole(self, content: Content, part: Part) -> StagedRun:
        """Return a part as one object, put together here where it is none yet."""
        if len(part) == 1 and part[0].is_whole:
            return part[0].run
        first, end = part[0].first, part[-1].end
        digests = content.digests[first * DIGEST_BYTES : end * DIGEST_BYTES]
        run = StagedRun.of(content.file[1], first, digests)
        self._store.put(run.key(content.file[0]), b"".join(self._blocks(content, part)))
        return run

    def _blocks(self, content: Content, part: Part) -> list[memoryview]:
        blocks = []
        for one in part:
            begin = (one.first - one.run.first) * PIECE_BYTES
            stop = (one.end - one.run.first) * PIECE_BYTES
            whole = self._store.get(one.run.key(content.file[0]))
            blocks.append(memoryview(whole)[begin:stop])
        return blocks

    def _digest_of(self, keys: Sequence[str]) -> str:
        digest = hashlib.sha256()
        for key in keys:
            digest.update(self._store.get(key))
        return digest.hexdigest()


def _compare(content: Content, known: str) -> None:
    if known != content.file[1]:
        raise DamagedContent(
            f"the pieces of {content.file[1]} make {known}: the file changed while it was sent; "
            "log the artifact again"
        )
