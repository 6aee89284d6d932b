"""Makes an artifact out of what lies in staging, once all of it is there.

Every step can be done again, by anybody: content that is there stays, a published artifact stays
published, and what was told twice says the same. The manifest in staging goes last, so whoever
comes after a crash begins here again.
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
from runwire_store.announce import COMPLETE, DELETED, FAILED, artifact_event
from runwire_store.manifest import Manifest, ManifestError
from runwire_store.pieces import Shipment, shipped_key
from runwire_store.publish import PublishError, publish
from runwire_store.retention import Retention, RetentionError, leaving
from runwire_store.store import NotFound, StoreAway

_log = logging.getLogger("runwire.objects")

Announce = Callable[[Sequence[ArtifactEvent]], None]
"""Makes events durable where workers and people read them; the same ones again are harmless."""

# Rounds in which somebody else removed what was about to be joined.
_ROUNDS: Final = 3
# Small files at once: hides the latency of a store's answers.
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
        """Publish the artifact if all of it is there; return what became of it, "" when not yet.

        Blocks: for as long as joining takes, seconds per gigabyte.
        Raises: StoreError, and what telling raises; the same call goes on from there.
        """
        seen: Manifest | None = None
        for _ in range(_ROUNDS):
            try:
                shipment = self._shipment(artifact)
                if shipment is None:
                    return self._tidy(seen)
                seen = shipment.manifest
                if not self._bring(artifact, shipment):
                    return ""
                published, at_ns = self._publish(seen)
            except (DamagedContent, ManifestError) as error:
                self.fail(artifact, str(error))
                return FAILED
            except (NotFound, PublishError) as error:
                _log.info("%s: somebody else works on it (%s); looking again", artifact, error)
                continue
            self._tell(published, COMPLETE, at_ns=at_ns)
            self._retain(published)
            self._staging.forget(artifact)
            return COMPLETE
        raise StoreAway(
            f"the pieces of artifact {artifact} come and go in {self._store.uri}: is something "
            "else deleting objects below staging/ or blobs/?"
        )

    def fail(self, artifact: str, reason: str) -> None:
        """Tell that the artifact will never be there and forget what came of it."""
        _log.error("artifact %s failed: %s", artifact, reason)
        try:
            shipment = self._shipment(artifact)
        except ManifestError:
            shipment = None
        if shipment is not None:
            self._tell(shipment.manifest, FAILED, at_ns=self._clock_ns(), reason=reason)
        self._staging.forget(artifact)

    def _shipment(self, artifact: str) -> Shipment | None:
        try:
            return Shipment.from_json(self._store.get(shipped_key(artifact)).decode())
        except NotFound:
            return None

    def _tidy(self, manifest: Manifest | None) -> str:
        """Somebody else has finished it meanwhile; what was put here since is in the way."""
        if manifest is None or self._store.stat(manifest.key) is None:
            return ""
        self._staging.forget(manifest.artifact)
        return COMPLETE

    def _publish(self, manifest: Manifest) -> tuple[Manifest, int]:
        """Return the published manifest and when it was published, now or by an earlier owner."""
        before = self._store.stat(manifest.key)
        now_ns = self._clock_ns()
        published = publish(self._store, manifest, now_ns=now_ns)
        if before is None:
            return published, now_ns
        return published, max(before.modified_at_ns, manifest.created_at_ns)

    def _bring(self, artifact: str, shipment: Shipment) -> bool:
        """Make every blob; false while something is missing."""
        staged = self._staging.look(artifact)
        contents = {
            sha256: Content((artifact, sha256), size, shipment.pieces[sha256])
            for sha256, size in shipment.sizes.items()
            if size
        }
        with ThreadPoolExecutor(self._threads) as threads:
            absent = self._absent(threads, contents)
            for sha256 in staged.doubted & contents.keys() - set(absent):
                self._joining.read_back(contents[sha256])
            plans = [self._joining.plan(contents[s], staged.runs.get(s, [])) for s in absent]
            ready = [plan for plan in plans if plan is not None]
            if len(ready) < len(plans):
                return False
            for job in [threads.submit(self._joining.make, plan) for plan in ready]:
                job.result()
            if wrong := self._absent(threads, {sha256: contents[sha256] for sha256 in absent}):
                raise StoreAway(f"{self._store.uri} made something else of {wrong[0]}")
        return True

    def _absent(self, threads: ThreadPoolExecutor, contents: Mapping[str, Content]) -> list[str]:
        stats = threads.map(lambda content: self._store.stat(content.key), contents.values())
        pairs = zip(contents.values(), stats, strict=True)
        return [c.file[1] for c, stat in pairs if stat is None or stat.size != c.size]

    def _tell(
        self, manifest: Manifest, event: str, *, at_ns: int, reason: str | None = None
    ) -> None:
        uri = self._store.uri if event == COMPLETE else ""
        told = artifact_event(manifest, event, at_ns=at_ns, store_uri=uri, reason=reason)
        self._announce([told])

    def _retain(self, manifest: Manifest) -> None:
        """Let go of what the rules saved with a checkpoint let go; told before it is gone."""
        facts = manifest.checkpoint
        if facts is None or not facts.retention:
            return
        try:
            rules = Retention.from_json(facts.retention)
        except (RetentionError, TypeError) as error:
            _log.warning("checkpoints of run %r: %s", manifest.run_id, error)
            return
        project, run_id, now_ns = manifest.project, manifest.run_id, self._clock_ns()
        gone = leaving(self._store, project, run_id, rules, now_ns=now_ns)
        told = [artifact_event(m, DELETED, at_ns=now_ns, reason="retention") for m in gone]
        self._announce(told)
        self._store.delete(m.key for m in gone)
