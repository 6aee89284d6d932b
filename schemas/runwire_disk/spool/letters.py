"""Dead letters about spool records: the loss in a cut, and the id that both routes give it.

The Kafka route sends the letter itself; on the embedded route the worker makes it from a record
with the same coordinates. Equal ids are what lets a loss count once, whichever route reports it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final

from runwire_disk.spool.cut import Cut
from runwire_disk.spool.format import Meta
from runwire_schemas.events import DeadLetter

__all__ = ["LOSS_INDEX", "Loss", "letter_about", "letter_id", "loss_of", "partition_of"]

# Beside record 0 of the same coordinates, which holds what could be read of the cut.
LOSS_INDEX: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Records of a cut that cannot be stored: the reason, and the bytes kept for a person.

    Units: `points` in accepted points that are lost.
    """

    reason: str
    evidence: bytes = b""
    points: int = 0


def partition_of(cut: Cut) -> str:
    """Return the partition of a cut: one series of one writer."""
    return f"{cut.writer}/{cut.series}"


def loss_of(cut: Cut) -> Loss | None:
    """Return the damage in the range of a cut; None when every record of it could be read."""
    if cut.value and not cut.damage and not cut.points_lost:
        return None
    kept = [
        {
            "segment": damage.segment,
            "offset": damage.offset,
            "size": damage.size,
            "data": damage.data.hex(),
        }
        for damage in cut.damage
    ]
    reasons = "; ".join(damage.reason for damage in cut.damage)
    return Loss(
        reason=reasons or f"{cut.points_lost} points before seq {cut.last_seq} are lost",
        evidence=json.dumps(kept).encode(),
        points=cut.points_lost,
    )


def letter_id(
    *, stream: str, partition: str, first: int, last: int, index: int, topic_id: str = ""
) -> str:
    """Return the id of a letter about records [first, last]: the same for the same coordinates.

    A topic that was deleted and created again has other records at the same offsets, so the id of
    the topic counts; partitions of the spool are never reused and have none.
    """
    coordinates = [stream, partition, first, last, index, *([topic_id] if topic_id else [])]
    text = json.dumps(coordinates, ensure_ascii=True).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def letter_about(cut: Cut, meta: Meta, loss: Loss, *, at_ns: int) -> DeadLetter:
    """Return the letter about a loss in a cut."""
    partition = partition_of(cut)
    return DeadLetter(
        id=letter_id(
            stream=cut.kind,
            partition=partition,
            first=cut.first_seq,
            last=cut.last_seq,
            index=LOSS_INDEX,
        ),
        stream=cut.kind,
        partition=partition,
        offset=cut.first_seq,
        last_offset=cut.last_seq,
        at_ns=at_ns,
        reason=loss.reason,
        points=loss.points,
        key=cut.writer.encode(),
        value=loss.evidence,
        project=meta.project,
        run_id=meta.run_id,
    )
