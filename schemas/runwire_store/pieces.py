"""Content on the Kafka route: pieces of files, the list of their digests, and names in staging.

A file travels as pieces of PIECE_BYTES; the event "shipped" carries the manifest and the digest of
every piece; the object worker gathers pieces into runs, ordinary objects under `staging/`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from runwire_store.layout import staging_prefix
from runwire_store.manifest import Manifest, ManifestError
from runwire_store.store import PART_BYTES_MIN

__all__ = [
    "DIGEST_BYTES",
    "FILE_BYTES_MAX",
    "PIECE_BYTES",
    "RUN_PIECES",
    "RUN_PIECES_MIN",
    "Shipment",
    "StagedRun",
    "piece_count",
    "piece_size",
    "shipped_key",
]

# Far below what brokers take (1 MiB by default), large enough that messages cost little.
PIECE_BYTES: Final = 512 * 1024
DIGEST_BYTES: Final = 32  # SHA-256
# What a worker aims at for one object in staging: 8 MiB, the part size of S3 clients.
RUN_PIECES: Final = 16
# Shorter runs cannot be joined on the server, the last one excepted.
RUN_PIECES_MIN: Final = -(-PART_BYTES_MIN // PIECE_BYTES)
# S3 joins at most 10,000 parts.
FILE_BYTES_MAX: Final = 10_000 * RUN_PIECES * PIECE_BYTES

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RUN = re.compile(r"([0-9a-f]{64})/(\d{8})-(\d{6})-([0-9a-f]{64})")


def piece_count(size: int) -> int:
    """Return how many pieces a file of so many bytes has; an empty file has none."""
    return -(-size // PIECE_BYTES)


def piece_size(size: int, index: int) -> int:
    """Return how long piece `index` is of a file of `size` bytes, 0 when there is no such piece."""
    return max(0, min(PIECE_BYTES, size - index * PIECE_BYTES)) if index >= 0 else 0


def shipped_key(artifact: str) -> str:
    """Return where the event "shipped" waits until all pieces are there."""
    return f"{staging_prefix(artifact)}manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipment:
    """What `ArtifactEvent.manifest` of "shipped" says; `pieces` has the digests by SHA-256.

    Shapes: pieces[sha256] is the concatenation of one SHA-256 per piece, in order.
    """

    manifest: Manifest
    pieces: Mapping[str, bytes]

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each content that travels with the artifact, by SHA-256, each once."""
        return {entry.sha256: entry.size for entry in self.manifest.files if not entry.uri}

    def to_json(self) -> str:
        """Return it as the event carries it: the same shipment gives the same text."""
        fields = {
            "manifest": json.loads(self.manifest.to_json()),
            "pieces": {
                sha256: base64.b64encode(digests).decode()
                for sha256, digests in self.pieces.items()
            },
            "piece_bytes": PIECE_BYTES,
        }
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what such a text says. Raises: ManifestError unless every content is accounted."""
        try:
            fields: Any = json.loads(text)
            found = fields["piece_bytes"]
            pieces = {
                sha256: base64.b64decode(digests, validate=True)
                for sha256, digests in fields["pieces"].items()
            }
            manifest = Manifest.from_json(json.dumps(fields["manifest"]).encode())
        except ManifestError:
            raise
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ManifestError(f"this is no list of an artifact's pieces: {error!r}") from error
        if found != PIECE_BYTES:
            raise ManifestError(
                f"pieces have {found!r} bytes, this runwire knows {PIECE_BYTES}: upgrade the worker"
            )
        known = cls(manifest=manifest, pieces=pieces)
        known._check()
        return known

    def _check(self) -> None:
        sizes = self.sizes
        for entry in self.manifest.files:
            if entry.uri:
                continue
            name = f"{entry.path[:200]!r} of {self.manifest.artifact[:80]}"
            if type(entry.size) is not int or entry.size < 0 or sizes[entry.sha256] != entry.size:
                raise ManifestError(f"{name}: {entry.size!r} is not the size of its content")
            if not _SHA256.fullmatch(entry.sha256):
                raise ManifestError(f"{name}: {entry.sha256[:80]!r} is no SHA-256")
            listed, rest = divmod(len(self.pieces.get(entry.sha256, b"")), DIGEST_BYTES)
            if rest or listed != piece_count(entry.size):
                raise ManifestError(
                    f"{name} has {entry.size} bytes and {listed} digests of pieces, "
                    f"{piece_count(entry.size)} are needed"
                )


@dataclass(frozen=True, slots=True, order=True)
class StagedRun:
    """Pieces `first` to `first + count - 1` of one content, as one object of an artifact's staging.

    `digest` is SHA-256 of the pieces' digests, in hex: the same pieces give the same key.
    """

    sha256: str
    first: int
    count: int
    digest: str

    @classmethod
    def of(cls, sha256: str, first: int, digests: bytes) -> Self:
        """Return the run of the pieces with these concatenated digests."""
        count = len(digests) // DIGEST_BYTES
        return cls(sha256, first, count, hashlib.sha256(digests).hexdigest())

    @property
    def end(self) -> int:
        """The number after its last piece."""
        return self.first + self.count

    def key(self, artifact: str) -> str:
        """Return where it lies; the keys of a content sort by the first piece."""
        place = f"{self.sha256}/{self.first:08d}-{self.count:06d}-{self.digest}"
        return f"{staging_prefix(artifact)}{place}"

    @classmethod
    def parse(cls, key: str, artifact: str) -> Self | None:
        """Return the run that lies at a key, None when something else lies there."""
        found = _RUN.fullmatch(key.removeprefix(staging_prefix(artifact)))
        if found is None:
            return None
        sha256, first, count, digest = found.groups()
        return cls(sha256, int(first), int(count), digest)
