"""The sink of the object worker: pieces go to staging, what is complete gets published."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.errors import Rejection, Retryable, RowsRejected
from runwire_consumers.objects.completion import Announce
from runwire_consumers.objects.decoding import CHUNK
from runwire_consumers.objects.staging import Staging, fault_of
from runwire_schemas.events import ArtifactEvent, Chunk
from runwire_store.announce import FAILED, SHIPPED
from runwire_store.manifest import ManifestError
from runwire_store.pieces import FILE_BYTES_MAX, Shipment
from runwire_store.publish import check_files
from runwire_store.store import UNAVAILABLE, StoreRefused

_log = logging.getLogger("runwire.objects")

ARTIFACT = "artifact"
# The store's own trouble passes in seconds; a person needs longer to put a refusal right.
_AWAY_S, _REFUSED_S = 1.0, 5.0


class ObjectSink:
    """Writes pieces and manifests to a store; `finish` is told which artifacts may be complete.

    Writing a batch again, in whole or in other bounds, leads to the same artifacts.
    """

    def __init__(self, staging: Staging, finish: Callable[[str], None], announce: Announce) -> None:
        self._staging, self._finish, self._announce = staging, finish, announce

    def check(self) -> None:
        """Prove that the store can be read."""
        try:
            self._staging.store.check()
        except UNAVAILABLE as error:
            raise later(error) from error

    def write(self, batch: Batch) -> None:
        """Store what the batch holds. Raises: RowsRejected, Retryable."""
        chunks = [event for event in batch.events.get(CHUNK, []) if isinstance(event, Chunk)]
        told = [e for e in batch.events.get(ARTIFACT, []) if isinstance(e, ArtifactEvent)]
        self._reject(chunks, told)
        shipped = [event for event in told if event.event == SHIPPED]
        try:
            self._staging.add(chunks)
            for event in shipped:
                self._staging.add_shipped(event.artifact, (event.manifest or "").encode())
            # Only now: see the second invariant of staging.
            touched = {(e.project, e.run_id, e.artifact) for e in chunks}
            touched |= {(e.project, e.run_id, e.artifact) for e in shipped}
            for project, run_id, artifact in sorted(touched):
                self._look(project, run_id, artifact)
        except UNAVAILABLE as error:
            raise later(error) from error

    def close(self, deadline: Deadline) -> None:
        """End the threads; the store belongs to whoever opened it."""
        self._staging.close()

    def _look(self, project: str, run_id: str, artifact: str) -> None:
        if self._staging.is_shipped(artifact):
            self._finish(artifact)
        elif self._staging.is_published(project, run_id, artifact):
            self._staging.forget(artifact)

    def _reject(self, chunks: Sequence[Chunk], told: Sequence[ArtifactEvent]) -> None:
        faults = [
            Rejection(CHUNK, index, fault)
            for index, chunk in enumerate(chunks)
            if (fault := fault_of(chunk))
        ]
        for index, event in enumerate(told):
            if event.event == SHIPPED and (fault := _shipped_fault(event)):
                faults.append(Rejection(ARTIFACT, index, fault))
                failed = replace(event, event=FAILED, reason=fault, manifest=None)
                self._announce([failed])
        if faults:
            raise RowsRejected(faults)


def later(error: Exception) -> Retryable:
    """Return a store's trouble as the worker's word for it: the batch stays, nothing is lost."""
    return Retryable(_REFUSED_S if isinstance(error, StoreRefused) else _AWAY_S, str(error))


def _shipped_fault(event: ArtifactEvent) -> str:
    """Return why nothing can become of a shipped artifact, "" when something can."""
    try:
        shipment = Shipment.from_json(event.manifest or "")
        check_files(shipment.manifest.files)
    except ManifestError as error:
        return str(error)
    said = shipment.manifest
    if (said.project, said.run_id, said.artifact) != (event.project, event.run_id, event.artifact):
        return (
            f"the event of {event.artifact[:40]!r} carries the manifest of {said.artifact[:40]!r}"
        )
    if (size := max(shipment.sizes.values(), default=0)) > FILE_BYTES_MAX:
        return (
            f"a file of {size} bytes cannot be put together from pieces, at most {FILE_BYTES_MAX}: "
            "send it with RUNWIRE_ARTIFACT_ROUTE=direct or reference"
        )
    return ""
