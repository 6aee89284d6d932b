"""Messages of cuts: the record itself, and a dead letter about its losses."""

from __future__ import annotations

import time

from runwire_agent.ship.broker import Message, ValueOf
from runwire_disk.spool.cut import Cut
from runwire_disk.spool.format import Meta
from runwire_disk.spool.letters import Loss, letter_about, loss_of
from runwire_schemas import codec

__all__ = ["letter_message", "messages_of"]


def messages_of(cut: Cut, meta: Meta, value_of: ValueOf) -> list[Message]:
    """Return the messages that a cut becomes; at least one."""
    messages: list[Message] = []
    if cut.value:
        value = value_of(cut.kind, cut.value)
        messages.append(Message(cut.kind, cut.writer.encode(), value, cut.points))
    loss = loss_of(cut)
    if loss is not None:
        messages.append(letter_message(cut, meta, loss, value_of))
    return messages


def letter_message(cut: Cut, meta: Meta, loss: Loss, value_of: ValueOf) -> Message:
    """Return the message of a dead letter about a cut."""
    letter = letter_about(cut, meta, loss, at_ns=time.time_ns())
    value = value_of("deadletter", codec.encode(letter))
    return Message("deadletter", letter.key, value, letter.points)
