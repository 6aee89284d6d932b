"""Completion of an artifact from its staged pieces, once all of them are there.

Every step can be repeated by any worker: existing content is kept, a published artifact stays
published, and a repeated event says the same. The staged list of pieces is deleted last, so after a
crash the next worker starts here again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from runwire_consumers.objects.joining import Content, DamagedContent, Joining
from runwire_consumers.objects.staging import Staging
from runwire_schemas.events import ArtifactEvent
from runwire_store.announce import COMPLETE, FAILED, artifact_event
from runwire_store.manifest import Manifest, ManifestError
from runwire_store.pieces import PieceList, piece_list_key
from runwire_store.publish import PublishError, publish
from runwire_store.releasing import StagedReleaseNote, release
from runwire_store.store import NotFound, StoreAway

_log = logging.getLogger("runwire.objects")

Announce = Callable[[Sequence[ArtifactEvent]], None]
"""Makes events durable for workers and views; repeated events are harmless."""

# Rounds in which another worker deleted the pieces that were about to be joined.
_ROUNDS: Final = 3
# Small files at once: hides the latency of the store's answers.
THREADS: Final = 4


class Completion:
    """Finishes artifacts one by one. Threads: any, also with the same artifact."""

    def __init__(
        self,
        staging: Staging,
        announce: Announce,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        threads: int = THREADS,
    ) -> None:
        self._staging, self._store = staging, staging.store
        self._joining = Joining(staging)
        self._announce, self._clock_ns, self._threads = announce, clock_ns, threads

    def finish(self, artifact: str) -> str:
        """Publish the artifact if all pieces exist; return its new state, "" if some are missing.

        Blocks: while it is joined, seconds per gigabyte.
        Raises: StoreError, and errors of `announce`; the same call resumes.
        """
        manifest: Manifest | None = None
        for _ in range(_ROUNDS):
            try:
                listed = self._read_list(artifact)
                if listed is None:
                    return self._clear_if_published(manifest)
                manifest = listed.manifest
                if not self._make_blobs(artifact, listed):
                    return ""
                published, at_ns = self._publish(manifest)
            except (DamagedContent, ManifestError) as error:
                self.fail(artifact, str(error))
                return FAILED
            except (NotFound, PublishError) as error:
                _log.info("%s: another worker has it too (%s); trying again", artifact, error)
                continue
            self._tell(published, COMPLETE, at_ns=at_ns)
            note = StagedReleaseNote(self._store, artifact)
            release(self._store, published, note, self._announce, now_ns=self._clock_ns())
            self._staging.forget(artifact)
            return COMPLETE
        raise StoreAway(
            f"the pieces of artifact {artifact} come and go in {self._store.uri}: is something "
            "else deleting objects below staging/ or blobs/?"
        )

    def fail(self, artifact: str, reason: str) -> None:
        """Announce that the artifact can never be completed, and delete its staging."""
        _log.error("artifact %s failed: %s", artifact, reason)
        try:
            listed = self._read_list(artifact)
        except ManifestError:
            listed = None
        if listed is not None:
            self._tell(listed.manifest, FAILED, at_ns=self._clock_ns(), reason=reason)
        self._staging.forget(artifact)

    def _read_list(self, artifact: str) -> PieceList | None:
        try:
            return PieceList.from_json(self._store.get(piece_list_key(artifact)).decode())
        except NotFound:
            return None

    def _clear_if_published(self, manifest: Manifest | None) -> str:
        """Delete what was staged since another worker has finished the artifact."""
        if manifest is None or self._store.stat(manifest.key) is None:
            return ""
        self._staging.forget(manifest.artifact)
        return COMPLETE

    def _publish(self, manifest: Manifest) -> tuple[Manifest, int]:
        """Return the published manifest and its publication time, now or by an earlier worker."""
        before = self._store.stat(manifest.key)
        now_ns = self._clock_ns()
        published = publish(self._store, manifest, now_ns=now_ns)
        if before is None:
            return published, now_ns
        return published, max(before.modified_at_ns, manifest.created_at_ns)

    def _make_blobs(self, artifact: str, listed: PieceList) -> bool:
        """Make every blob; false while pieces are missing."""
        staged = self._staging.look(artifact)
        contents = {
            sha256: Content((artifact, sha256), size, listed.pieces[sha256])
            for sha256, size in listed.sizes.items()
            if size
        }
        with ThreadPoolExecutor(self._threads) as threads:
            absent = self._absent(threads, contents)
            for sha256 in staged.doubted & contents.keys() - set(absent):
                self._joining.read_back(contents[sha256])
            plans = [self._joining.plan(contents[s], staged.ranges.get(s, [])) for s in absent]
            ready = [plan for plan in plans if plan is not None]
            if len(ready) < len(plans):
                return False
            for job in [threads.submit(self._joining.make, plan) for plan in ready]:
                job.result()
            if wrong := self._absent(threads, {sha256: contents[sha256] for sha256 in absent}):
                raise StoreAway(f"{self._store.uri} joined {wrong[0]} to an object of another size")
        return True

    def _absent(self, threads: ThreadPoolExecutor, contents: Mapping[str, Content]) -> list[str]:
        stats = threads.map(lambda content: self._store.stat(content.key), contents.values())
        pairs = zip(contents.values(), stats, strict=True)
        return [c.file[1] for c, stat in pairs if stat is None or stat.size != c.size]

    def _tell(
        self, manifest: Manifest, event: str, *, at_ns: int, reason: str | None = None
    ) -> None:
        uri = self._store.uri if event == COMPLETE else ""
        self._announce([artifact_event(manifest, event, at_ns=at_ns, store_uri=uri, reason=reason)])
