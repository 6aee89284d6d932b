"""Content on the Kafka route: pieces of files, the list of their digests, and staged ranges.

A file is sent as pieces of PIECE_BYTES; the event "shipped" carries the manifest and the digest of
every piece; the object worker stores ranges of pieces as ordinary objects under `staging/`.
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
    "RANGE_PIECES",
    "RANGE_PIECES_MIN",
    "PieceList",
    "StagedRange",
    "piece_count",
    "piece_size",
    "piece_list_key",
]

# Far below the limit of brokers (1 MiB by default), large enough that messages cost little.
PIECE_BYTES: Final = 512 * 1024
DIGEST_BYTES: Final = 32  # SHA-256
# Pieces that a worker aims at for one object in staging: 8 MiB, the part size of S3 clients.
RANGE_PIECES: Final = 16
# Shorter ranges cannot be joined on the server, except the last one.
RANGE_PIECES_MIN: Final = -(-PART_BYTES_MIN // PIECE_BYTES)
# S3 joins at most 10,000 parts.
FILE_BYTES_MAX: Final = 10_000 * RANGE_PIECES * PIECE_BYTES

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"([0-9a-f]{64})/(\d{8})-(\d{6})-([0-9a-f]{64})")


def piece_count(size: int) -> int:
    """Return the number of pieces of a file of `size` bytes; an empty file has none."""
    return -(-size // PIECE_BYTES)


def piece_size(size: int, index: int) -> int:
    """Return the length of piece `index` of a file of `size` bytes, 0 for no such piece."""
    return max(0, min(PIECE_BYTES, size - index * PIECE_BYTES)) if index >= 0 else 0


def piece_list_key(artifact: str) -> str:
    """Return the key of the list from "shipped", stored until all pieces are there."""
    return f"{staging_prefix(artifact)}manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceList:
    """The content of `ArtifactEvent.manifest` in "shipped": manifest and digests of all pieces.

    Shapes: pieces[sha256] is the concatenation of one SHA-256 per piece, in order.
    """

    manifest: Manifest
    pieces: Mapping[str, bytes]

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each distinct content that is sent, by SHA-256."""
        return {entry.sha256: entry.size for entry in self.manifest.files if not entry.uri}

    def to_json(self) -> str:
        """Return the text for the event; equal lists give equal texts."""
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
        """Parse such a text. Raises: ManifestError unless every content has all its digests."""
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
        listed = cls(manifest=manifest, pieces=pieces)
        listed._check()
        return listed

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
class StagedRange:
    """Pieces `first` to `first + count - 1` of one content, as one object of an artifact's staging.

    `digest` is SHA-256 of the pieces' digests, in hex: the same pieces give the same key.
    """

    sha256: str
    first: int
    count: int
    digest: str

    @classmethod
    def of(cls, sha256: str, first: int, digests: bytes) -> Self:
        """Return the range of the pieces with these concatenated digests."""
        count = len(digests) // DIGEST_BYTES
        return cls(sha256, first, count, hashlib.sha256(digests).hexdigest())

    @property
    def end(self) -> int:
        """The number after its last piece."""
        return self.first + self.count

    def key(self, artifact: str) -> str:
        """Return its key; the keys of a content sort by the first piece."""
        place = f"{self.sha256}/{self.first:08d}-{self.count:06d}-{self.digest}"
        return f"{staging_prefix(artifact)}{place}"

    @classmethod
    def parse(cls, key: str, artifact: str) -> Self | None:
        """Return the range of a key, None for a key of another object."""
        found = _RANGE.fullmatch(key.removeprefix(staging_prefix(artifact)))
        if found is None:
            return None
        sha256, first, count, digest = found.groups()
        return cls(sha256, int(first), int(count), digest)
