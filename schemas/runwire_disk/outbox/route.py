"""Route of artifacts: straight to a store, through Kafka, or by reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runwire_disk.settings import NodeSettings
from runwire_schemas.bounds import MESSAGE_BYTES_MAX
from runwire_store.pieces import FILE_BYTES_MAX, PIECE_BYTES

__all__ = ["DIRECT", "KAFKA", "REFERENCE", "REFUSED", "UNSEEN", "Route", "choose_route"]

DIRECT: Final = "direct"
KAFKA: Final = "kafka"
REFERENCE: Final = "reference"
# Routes of an artifact that is not uploaded: its call failed, or mode is "disabled".
REFUSED: Final = "refused"
UNSEEN: Final = "disabled"
# One file in a manifest with its digest, and one digest of a piece, as base64 in JSON.
_FILE_BYTES: Final = 200
_DIGEST_BYTES: Final = 44


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Transport of content, "direct" or "kafka", and the public part of the S3 settings.

    Files above `content_bytes_max` are recorded by reference. `sentence` describes it for a log.
    """

    transport: str
    sentence: str
    store: Mapping[str, Any] = field(default_factory=dict)
    content_bytes_max: int | None = None

    def manifest_fits(self, paths_bytes: int, files: int, size: int) -> bool:
        """Tell whether the manifest of `files` files fits a message of this route."""
        digests = (size // PIECE_BYTES + files) * _DIGEST_BYTES
        # Twice: names may need escapes, and the message has to stay well below the limit.
        return self.transport != KAFKA or (
            2 * paths_bytes + files * _FILE_BYTES + digests < MESSAGE_BYTES_MAX * 3 // 4
        )


def choose_route(settings: NodeSettings) -> Route:
    """Return the route that `artifact_route` selects with these brokers and this store."""
    s3, chosen = settings.s3, settings.artifact_route
    brokers = settings.kafka_bootstrap_servers
    by_kafka = chosen == KAFKA or (chosen != DIRECT and s3 is None and bool(brokers))
    content_bytes_max = 0 if chosen == REFERENCE else None
    if by_kafka:
        limit = min(settings.artifact_kafka_bytes_max, FILE_BYTES_MAX)
        return Route(
            transport=KAFKA,
            sentence=f"in pieces through Kafka ({brokers}); files above {limit / 2**30:g} GiB are "
            "recorded by reference",
            content_bytes_max=limit if content_bytes_max is None else content_bytes_max,
        )
    return Route(
        transport=DIRECT,
        sentence=f"straight to {s3.url}/{s3.bucket}" if s3 else f"to {settings.root / 'objects'}",
        store={} if s3 is None else s3.public(),
        content_bytes_max=content_bytes_max,
    )
