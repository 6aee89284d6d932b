"""An outbox as trainers leave it, an uploader over a store and brokers in memory."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runwire_agent.ship.broker import Broker, MemoryBroker, MemoryCluster
from runwire_agent.upload.direct import DirectTransport, Stores
from runwire_agent.upload.duty import make_routes
from runwire_agent.upload.transport import Pace, Transport
from runwire_agent.upload.uploader import Uploader
from runwire_disk.outbox.request import RequestFile, UploadRequest, content_path, outbox_dir
from runwire_disk.outbox.requests import OutboxRequests
from runwire_disk.outbox.route import DIRECT, KAFKA
from runwire_disk.spool.format import LOCAL
from runwire_schemas import codec
from runwire_schemas.connections.s3 import S3Settings
from runwire_schemas.events import ArtifactEvent, Chunk
from runwire_store.layout import blob_key
from runwire_store.manifest import Manifest, read_manifest
from runwire_store.memory import MemoryObjectStore
from runwire_store.pieces import PieceList
from runwire_store.store import ObjectStore
from support.shipping import KAFKA as BROKERS

Contents = bytes | Sequence[bytes]


def leave(root: Path, contents: Contents = b"content", **changes: Any) -> UploadRequest:
    """Put a request into the outbox, as `log_artifact` does."""
    parts = [contents] if isinstance(contents, bytes) else list(contents)
    files = [
        RequestFile(path=f"file-{index}.bin", index=index, size=len(part))
        for index, part in enumerate(parts)
    ]
    fields: dict[str, Any] = {
        "artifact": os.urandom(16).hex(),
        "project": "p",
        "run_id": "r1",
        "attempt": "a1",
        "writer": "0" * 32,
        "rank": 0,
        "name": "things",
        "type": "file",
        "created_at_ns": time.time_ns(),
        "destination": LOCAL,
        "route": DIRECT,
        "files": tuple(files),
    }
    request = UploadRequest(**{**fields, **changes})
    folder = folder_of(root, request)
    (folder / "content").mkdir(parents=True)
    for index, part in enumerate(parts):
        content_path(folder, index).write_bytes(part)
    request.commit(folder)
    return request


def for_kafka(**changes: Any) -> dict[str, Any]:
    """Fields of a request whose pieces go to the brokers of the rigs."""
    return {"route": KAFKA, "destination": BROKERS.destination, **changes}


def folder_of(root: Path, request: UploadRequest) -> Path:
    return outbox_dir(root) / request.artifact


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class UploadRig:
    """One data root, one store, one cluster; `start` is another agent's uploader."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store: ObjectStore = MemoryObjectStore()
        self.cluster = MemoryCluster()
        self.now_s = 1000.0
        self.told: list[ArtifactEvent] = []
        self.modes: list[str] = []
        self.has_room = True
        self.stop = threading.Event()
        self.brokers: list[MemoryBroker] = []
        self.prepare_broker: Callable[[MemoryBroker], None] = lambda _: None
        self.uploader = self.start()

    def start(self) -> Uploader:
        self.stop = threading.Event()
        pace = Pace(self.stop)
        self.uploader = Uploader(
            OutboxRequests(self.root, lambda _: True),
            self._routes(pace),
            pace,
            monotonic_s=lambda: self.now_s,
        )
        return self.uploader

    def work(self) -> None:
        """Work until the uploader has nothing to do now, and write down its events."""
        while self.uploader.work():
            self.uploader.settle(self.write)
        self.uploader.settle(self.write)
        self.uploader.work()

    def write(self, mode: str, fields: Mapping[str, Any]) -> bool:
        if self.has_room:
            self.modes.append(mode)
            self.told.append(ArtifactEvent(**fields))
        return self.has_room

    @property
    def waiting(self) -> list[str]:
        """Artifacts in the outbox."""
        return [request.artifact for _, request in OutboxRequests(self.root, lambda _: True).look()]

    def manifest(self, request: UploadRequest) -> Manifest | None:
        from runwire_agent.upload.contents import manifest_of

        return read_manifest(self.store, manifest_of(request, []).key)

    def blob(self, content: bytes) -> bytes:
        return self.store.get(blob_key(sha256(content)))

    def chunks(self, request: UploadRequest) -> list[Chunk]:
        found = [codec.decode(m.value) for m in self.cluster.topics.get("chunk", [])]
        return [c for c in found if isinstance(c, Chunk) and c.artifact == request.artifact]

    def piece_lists(self, request: UploadRequest) -> list[PieceList]:
        found = [codec.decode(m.value) for m in self.cluster.topics.get("artifact", [])]
        return [
            PieceList.from_json(e.manifest or "")
            for e in found
            if isinstance(e, ArtifactEvent) and e.artifact == request.artifact
        ]

    def _routes(self, pace: Pace) -> Mapping[str, Transport]:
        made = dict(make_routes(pace, self.root, BROKERS, None, new_broker=self._broker))
        made[DIRECT] = DirectTransport(Stores(self.root, None, opener=self._open), pace)
        return made

    def _broker(self) -> Broker:
        self.brokers.append(MemoryBroker(self.cluster))
        self.prepare_broker(self.brokers[-1])
        return self.brokers[-1]

    def _open(self, _settings: S3Settings | None, _root: Path) -> ObjectStore:
        return self.store


def with_digests(request: UploadRequest, contents: Contents) -> UploadRequest:
    """The request with the digests that the saver of a checkpoint adds."""
    parts = [contents] if isinstance(contents, bytes) else contents
    pairs = zip(request.files, parts, strict=True)
    return replace(request, files=tuple(replace(f, sha256=sha256(part)) for f, part in pairs))
