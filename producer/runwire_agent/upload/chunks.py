"""The Kafka route: content as pieces on the topic of chunks, then the word that all are sent.

A replay sends the same pieces; the worker tells them apart by their numbers and digests.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from runwire_agent.ship.broker import UNREACHABLE, Broker, Message, ValueOf, keep_bundled_id
from runwire_agent.upload.contents import contents_of, hashed_entry, manifest_of, told_entry
from runwire_agent.upload.errors import NotNow, UploadFailed
from runwire_agent.upload.flight import Flight
from runwire_agent.upload.pace import Pace, Stopped
from runwire_agent.upload.progress_note import UploadJournal
from runwire_disk.outbox.request import UploadRequest
from runwire_disk.outbox.requests import Claim
from runwire_disk.outbox.route import KAFKA
from runwire_schemas import codec
from runwire_schemas.bounds import MESSAGE_BYTES_MAX
from runwire_schemas.events import ArtifactEvent, Chunk
from runwire_store.announce import SHIPPED, artifact_event
from runwire_store.manifest import FileEntry
from runwire_store.pieces import FILE_BYTES_MAX, PIECE_BYTES, Shipment, piece_count

__all__ = ["ChunkRoute"]

Tell = Callable[[ArtifactEvent], None]


class ChunkRoute:
    """Ships requests to the brokers of this agent. Threads: one."""

    def __init__(
        self, new_broker: Callable[[], Broker], pace: Pace, *, value_of: ValueOf = keep_bundled_id
    ) -> None:
        self._new_broker, self._pace, self._value_of = new_broker, pace, value_of
        self._broker: Broker | None = None
        self._in_trouble = False

    def lane(self, request: UploadRequest) -> str | None:
        """Return a name of the brokers, which all requests of this route share."""
        return KAFKA if request.route == KAFKA else None

    def ship(self, claim: Claim, tell: Tell) -> None:
        """Send all pieces, then "shipped". Raises: NotNow, UploadFailed, Stopped, OSError."""
        broker = self._ready()
        try:
            with UploadJournal.open(claim.folder) as journal:
                self._ship(claim, broker, journal)
        except (NotNow, Stopped) as error:
            broker.reset()
            self._in_trouble = isinstance(error, NotNow)
            raise

    def close(self) -> None:
        """Let go of the connection."""
        if self._broker is not None:
            self._broker.close()

    def abandon(self) -> None:
        """Leave the connection to the parent process."""
        if self._broker is not None:
            self._broker.abandon()

    def _ready(self) -> Broker:
        if self._broker is None:
            self._broker = self._new_broker()
        if self._in_trouble and not self._broker.is_reachable(1.0):
            trouble = self._broker.trouble
            raise NotNow(
                trouble.kind if trouble else UNREACHABLE,
                trouble.sentence if trouble else "no broker answers",
            )
        self._in_trouble = False
        return self._broker

    def _ship(self, claim: Claim, broker: Broker, journal: UploadJournal) -> None:
        request, folder = claim.request, claim.folder
        entries = [
            told_entry(file)
            if file.sha256 and not file.source
            else hashed_entry(folder, file, journal, self._pace)
            for file in request.files
        ]
        flight = Flight(broker, self._pace)
        paths = contents_of(request, folder, entries)
        sizes = {entry.sha256: entry for entry in entries}
        pieces: dict[str, bytes] = {}
        for sha256, path in paths.items():
            pieces[sha256] = self._send(request, sizes[sha256], path, (journal, flight))
        shipment = Shipment(manifest=manifest_of(request, entries), pieces=pieces)
        event = artifact_event(
            shipment.manifest, SHIPPED, at_ns=time.time_ns(), text=shipment.to_json()
        )
        value = self._value_of("artifact", codec.encode(event))
        if len(value) > MESSAGE_BYTES_MAX:
            raise UploadFailed(
                f"the list of its {len(entries)} files is longer than a Kafka message: pack them "
                "into one archive, or set RUNWIRE_S3_ENDPOINT"
            )
        flight.drain()
        flight.send(Message("artifact", request.artifact.encode(), value))
        flight.drain()

    def _send(
        self,
        request: UploadRequest,
        entry: FileEntry,
        path: Path,
        way: tuple[UploadJournal, Flight],
    ) -> bytes:
        """Send the pieces that brokers have not acknowledged; return the digests of all."""
        if entry.size > FILE_BYTES_MAX:
            raise UploadFailed(
                f"{entry.path!r} has {entry.size} bytes, more than a worker can join "
                f"({FILE_BYTES_MAX}): set RUNWIRE_S3_ENDPOINT, or log it by reference"
            )
        journal, flight = way
        whole, digests = hashlib.sha256(), []
        known = journal.acked.get(entry.sha256, 0)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise UploadFailed(
                f"{entry.path!r} is gone from the outbox ({path}); log the artifact again"
            ) from error
        try:
            for index in range(piece_count(entry.size)):
                payload = os.pread(file, PIECE_BYTES, index * PIECE_BYTES)
                whole.update(payload)
                digest = hashlib.sha256(payload).digest()
                digests.append(digest)
                if index < known:
                    self._pace.worked(len(payload))
                    continue
                message = self._message(request, entry, index=index, payload=payload, digest=digest)
                arrived = _acked(journal, entry.sha256, index + 1)
                flight.send(message, arrived, content_bytes=len(payload))
            is_same = os.fstat(file).st_size == entry.size and whole.hexdigest() == entry.sha256
        finally:
            os.close(file)
        if not is_same:
            raise UploadFailed(
                f"{entry.path!r} is no longer what was logged, its SHA-256 was {entry.sha256}: "
                "something wrote into the file; log the artifact again"
            )
        # Not waited for: of ten thousand small files each would cost a way to the brokers and back.
        return b"".join(digests)

    def _message(
        self, request: UploadRequest, entry: FileEntry, *, index: int, payload: bytes, digest: bytes
    ) -> Message:
        chunk = Chunk(
            project=request.project,
            run_id=request.run_id,
            artifact=request.artifact,
            sha256=entry.sha256,
            file_bytes=entry.size,
            index=index,
            count=piece_count(entry.size),
            digest=digest,
            payload=payload,
        )
        value = self._value_of("chunk", codec.encode(chunk))
        return Message("chunk", request.artifact.encode(), value)


def _acked(journal: UploadJournal, sha256: str, pieces: int) -> Callable[[], None]:
    return lambda: journal.note_acked(sha256, pieces)
