"""The transport of the Kafka route: content as pieces, then the list of them with the manifest.

A repeat sends the same pieces; the object worker recognizes them by their numbers and digests.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from runwire_agent.ship.broker import (
    AWAY_AFTER_S,
    SILENT,
    SILENT_AFTER_S,
    UNREACHABLE,
    Broker,
    Failure,
    Message,
    ValueOf,
    keep_bundled_id,
)
from runwire_agent.upload.contents import (
    contents_of,
    entry_as_logged,
    hash_entry,
    manifest_of,
)
from runwire_agent.upload.progress_note import ProgressNote
from runwire_agent.upload.transport import NotNow, Pace, Stopped, Tell, UploadFailed
from runwire_disk.outbox.request import UploadRequest
from runwire_disk.outbox.requests import Claim
from runwire_disk.outbox.route import KAFKA
from runwire_schemas import codec
from runwire_schemas.bounds import MESSAGE_BYTES_MAX
from runwire_schemas.events import Chunk
from runwire_store.announce import SHIPPED, artifact_event
from runwire_store.manifest import FileEntry
from runwire_store.pieces import FILE_BYTES_MAX, PIECE_BYTES, PieceList, piece_count

__all__ = ["Flight", "KafkaTransport"]

# Keeps brokers busy over a network with a round trip of 100 ms at 100 MB/s.
IN_FLIGHT_BYTES_MAX = 16 * 1024 * 1024
POLL_S = 0.1


class KafkaTransport:
    """Uploads requests through the brokers of this agent. Threads: one."""

    def __init__(
        self, new_broker: Callable[[], Broker], pace: Pace, *, value_of: ValueOf = keep_bundled_id
    ) -> None:
        self._new_broker, self._pace, self._value_of = new_broker, pace, value_of
        self._broker: Broker | None = None
        self._in_trouble = False

    def backoff_key(self, request: UploadRequest) -> str | None:
        """Return the key of the brokers, which all requests of this route share."""
        return KAFKA if request.route == KAFKA else None

    def upload(self, claim: Claim, tell: Tell) -> None:
        """Send all pieces, then "shipped". Raises: NotNow, UploadFailed, Stopped, OSError."""
        broker = self._connect()
        try:
            with ProgressNote.open(claim.folder) as note:
                self._upload(claim, broker, note)
        except (NotNow, Stopped) as error:
            broker.reset()
            self._in_trouble = isinstance(error, NotNow)
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._broker is not None:
            self._broker.close()

    def abandon(self) -> None:
        """Leave the connection to the parent process."""
        if self._broker is not None:
            self._broker.abandon()

    def _connect(self) -> Broker:
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

    def _upload(self, claim: Claim, broker: Broker, note: ProgressNote) -> None:
        request, folder = claim.request, claim.folder
        entries = [
            entry_as_logged(file)
            if file.sha256 and not file.source
            else hash_entry(folder, file, note, self._pace)
            for file in request.files
        ]
        flight = Flight(broker, self._pace)
        sender = _PieceSender(request, note, flight, self._pace, value_of=self._value_of)
        by_digest = {entry.sha256: entry for entry in entries}
        pieces = {
            sha256: sender.send(by_digest[sha256], path)
            for sha256, path in contents_of(request, folder, entries).items()
        }
        listed = PieceList(manifest=manifest_of(request, entries), pieces=pieces)
        event = artifact_event(
            listed.manifest, SHIPPED, at_ns=time.time_ns(), text=listed.to_json()
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


class _PieceSender:
    """Sends the contents of one request as pieces."""

    def __init__(
        self,
        request: UploadRequest,
        note: ProgressNote,
        flight: Flight,
        pace: Pace,
        *,
        value_of: ValueOf,
    ) -> None:
        self._request, self._note, self._flight, self._pace = request, note, flight, pace
        self._value_of = value_of

    def send(self, entry: FileEntry, path: Path) -> bytes:
        """Send the pieces that brokers have not acknowledged; return the digests of all.

        Does not wait for acknowledgements: that would cost a round trip for each small file.
        """
        if entry.size > FILE_BYTES_MAX:
            raise UploadFailed(
                f"{entry.path!r} has {entry.size} bytes, more than a worker can join "
                f"({FILE_BYTES_MAX}): set RUNWIRE_S3_ENDPOINT, or log it by reference"
            )
        whole, digests = hashlib.sha256(), []
        acked = self._note.acked.get(entry.sha256, 0)
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
                if index < acked:
                    self._pace.worked(len(payload))
                    continue
                message = self._message(entry, index=index, payload=payload, digest=digest)
                arrived = partial(self._note.note_acked, entry.sha256, index + 1)
                self._flight.send(message, arrived, content_bytes=len(payload))
            is_same = os.fstat(file).st_size == entry.size and whole.hexdigest() == entry.sha256
        finally:
            os.close(file)
        if not is_same:
            raise UploadFailed(
                f"{entry.path!r} is no longer what was logged, its SHA-256 was {entry.sha256}: "
                "something wrote to the file; log the artifact again"
            )
        return b"".join(digests)

    def _message(self, entry: FileEntry, *, index: int, payload: bytes, digest: bytes) -> Message:
        request = self._request
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


class Flight:
    """The messages of one request in flight; after an error it cannot be used. Threads: one."""

    def __init__(
        self, broker: Broker, pace: Pace, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._broker, self._pace, self._clock = broker, pace, monotonic_s
        self._bytes = 0
        self._arrived = 0  # content bytes acknowledged and not yet counted by the pace
        self._failure: Failure | None = None
        self._progress_s = monotonic_s()

    def send(
        self, message: Message, arrived: Callable[[], None] | None = None, *, content_bytes: int = 0
    ) -> None:
        """Send a message; `arrived` is called once brokers have it and all those before it.

        Blocks: while too much is in flight. Raises: NotNow, Stopped.
        """
        size = len(message.value)

        def done(failure: Failure | None) -> None:
            self._bytes -= size
            if failure is not None:
                self._failure = self._failure or failure
            elif self._failure is None:
                self._progress_s = self._clock()
                self._arrived += content_bytes
                if arrived is not None:
                    arrived()

        while self._bytes and self._bytes + size > IN_FLIGHT_BYTES_MAX:
            self._serve()
        self._bytes += size
        while not self._broker.produce(message, done):
            self._serve()
        self._check()

    def drain(self) -> None:
        """Wait until every message is acknowledged. Raises: NotNow, Stopped. Blocks: until then."""
        while self._bytes:
            self._serve()
        self._check()

    def _serve(self) -> None:
        self._broker.poll(POLL_S)
        arrived, self._arrived = self._arrived, 0
        self._pace.moved(arrived)
        self._check()
        trouble = self._broker.trouble
        quiet_s = self._clock() - self._progress_s
        if trouble is not None and quiet_s >= AWAY_AFTER_S:
            raise NotNow(trouble.kind, trouble.sentence)
        if quiet_s >= SILENT_AFTER_S:
            raise NotNow(
                SILENT,
                f"no broker has acknowledged a piece for {SILENT_AFTER_S:g} s; check that the "
                "topic chunk has enough replicas in sync",
            )

    def _check(self) -> None:
        if self._failure is not None:
            raise NotNow(self._failure.kind, self._failure.sentence)
