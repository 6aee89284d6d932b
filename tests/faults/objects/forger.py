"""A producer with rights on the topics and no scruples: sends what no agent of ours would."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka import Producer

from runwire_schemas import codec
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.events import ArtifactEvent, Chunk
from runwire_schemas.topics import topic_name

PIECE_BYTES = 524_288
FLUSH_S = 60.0


@dataclass(frozen=True)
class Forgery:
    """One artifact of one file as an honest agent would send it; the fields are there to be bent.

    `manifest` and `pieces` are JSON; `texts` replace what the event carries.
    """

    manifest: dict[str, Any]
    pieces: dict[str, Any]
    chunks: tuple[Chunk, ...]
    event: ArtifactEvent

    @property
    def artifact(self) -> str:
        return self.event.artifact

    def with_manifest(self, **fields: Any) -> Forgery:
        """Bend the manifest; its digest and size are made to fit again where they can."""
        return replace(self, manifest=_summed(self.manifest | fields))

    def with_file(self, **fields: Any) -> Forgery:
        """Bend the entry of the file."""
        return self.with_manifest(files=[self.manifest["files"][0] | fields])

    def with_chunks(self, **fields: Any) -> Forgery:
        """Bend every piece."""
        return replace(self, chunks=tuple(replace(chunk, **fields) for chunk in self.chunks))

    def text(self, **fields: Any) -> str:
        """What the event carries."""
        whole = {"manifest": self.manifest, "pieces": self.pieces, "piece_bytes": PIECE_BYTES}
        return json.dumps(whole | fields)


def forge(content: bytes, *, name: str, artifact: str = "", **identity: Any) -> Forgery:
    """An honest artifact with this content."""
    about: dict[str, Any] = {
        "artifact": artifact or uuid.uuid4().hex,
        "project": "faults",
        "run_id": "forged",
        "attempt": "a",
        "writer": "0" * 32,
        "rank": 0,
        "name": name,
        "type": "file",
        **identity,
    }
    sha256 = hashlib.sha256(content).hexdigest()
    cuts = [content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES)]
    digests = [hashlib.sha256(cut).digest() for cut in cuts]
    manifest = {
        **about,
        "format": 1,
        "created_at_ns": 1_700_000_000_000_000_000,
        "files": [{"path": "file", "size": len(content), "sha256": sha256, "uri": ""}],
        "aliases": [],
        "metadata": {},
        "checkpoint": None,
        "route": "kafka",
        "version_at_ns": 0,
    }
    chunks = tuple(
        Chunk(
            project=about["project"],
            run_id=about["run_id"],
            artifact=about["artifact"],
            sha256=sha256,
            file_bytes=len(content),
            index=index,
            count=len(cuts),
            digest=digest,
            payload=cut,
        )
        for index, (cut, digest) in enumerate(zip(cuts, digests, strict=True))
    )
    event = ArtifactEvent(
        **about,
        seq=1,
        at_ns=1_700_000_000_000_000_000,
        event="shipped",
        files=1,
        bytes=len(content),
        sha256=sha256,
        uri="",
        route="kafka",
    )
    pieces = {sha256: base64.b64encode(b"".join(digests)).decode()}
    return Forgery(_summed(manifest), pieces, chunks, event)


class Forger:
    """Sends forgeries and waits until the brokers have them."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._prefix = kafka.topic_prefix
        self._producer = Producer(
            {**kafka.client_config(), "log_level": 0, "message.max.bytes": 20_000_000}
        )
        self.failures: list[str] = []

    def send(self, forgery: Forgery, *, text: str | None = None) -> None:
        """Send the pieces, then the event."""
        self.send_chunks(forgery)
        event = replace(forgery.event, manifest=forgery.text() if text is None else text)
        self.raw("artifact", forgery.artifact, codec.encode(event))

    def send_chunks(self, forgery: Forgery) -> None:
        """Send the pieces alone."""
        for chunk in forgery.chunks:
            self.raw("chunk", forgery.artifact, codec.encode(chunk))
        self.flush()

    def raw(self, kind: str, key: str, value: bytes) -> None:
        """Send any bytes."""
        self._producer.produce(
            topic_name(kind, self._prefix), value, key.encode(), on_delivery=self._note
        )
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until all of it is in the topics."""
        assert (self._producer.flush(FLUSH_S), self.failures) == (0, [])

    def _note(self, error: object, _: object) -> None:
        if error is not None:
            self.failures.append(str(error))


def _summed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Size and digest as the manifest's own rules have them, as far as they can be computed."""
    fields = dict(manifest)
    try:
        files = fields["files"]
        fields["size"] = sum(entry["size"] for entry in files)
        rows = sorted((entry["path"], entry["size"], entry["sha256"]) for entry in files)
        whole = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        fields["digest"] = files[0]["sha256"] if len(files) == 1 else whole
    except (TypeError, KeyError):
        fields |= {"size": 0, "digest": ""}
    return fields
