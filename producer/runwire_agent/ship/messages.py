"""Cuts of a spool folder as messages: the record itself, and a dead letter for what is damaged."""

from __future__ import annotations

import hashlib
import json
import time

from runwire_agent.ship.broker import Message, ValueOf
from runwire_disk.spool.cut import Cut
from runwire_disk.spool.format import Meta
from runwire_schemas import codec
from runwire_schemas.events import DeadLetter

__all__ = ["letter", "messages_of"]


def messages_of(cut: Cut, meta: Meta, value_of: ValueOf) -> list[Message]:
    """Return the messages that a cut becomes; at least one."""
    key = cut.writer.encode()
    found: list[Message] = []
    if cut.value:
        found.append(Message(cut.kind, key, value_of(cut.kind, cut.value), cut.points))
    if cut.damage or cut.points_lost or not cut.value:
        reasons = [damage.reason for damage in cut.damage]
        kept = [
            {
                "segment": damage.segment,
                "offset": damage.offset,
                "size": damage.size,
                "data": damage.data.hex(),
            }
            for damage in cut.damage
        ]
        reason = (
            "; ".join(reasons) or f"{cut.points_lost} points before seq {cut.last_seq} are lost"
        )
        rest = json.dumps(kept).encode()
        found.append(letter(cut, meta, value_of, reason=reason, value=rest, points=cut.points_lost))
    return found


def letter(
    cut: Cut, meta: Meta, value_of: ValueOf, *, reason: str, value: bytes, points: int
) -> Message:
    """Return a dead letter about records of the spool; the same records give the same id."""
    partition = f"{cut.writer}/{cut.series}"
    coordinates = [cut.kind, partition, cut.first_seq, cut.last_seq, 1]
    text = json.dumps(coordinates, ensure_ascii=True).encode()
    event = DeadLetter(
        id=hashlib.blake2b(text, digest_size=16).hexdigest(),
        stream=cut.kind,
        partition=partition,
        offset=cut.first_seq,
        last_offset=cut.last_seq,
        at_ns=time.time_ns(),
        reason=reason,
        points=points,
        key=cut.writer.encode(),
        value=value,
        project=meta.project,
        run_id=meta.run_id,
    )
    encoded = value_of("deadletter", codec.encode(event))
    return Message("deadletter", cut.writer.encode(), encoded, points)
