"""Messages of cuts: the record itself, a dead letter about its losses, and their schema ids."""

from __future__ import annotations

import time
from collections.abc import Callable

from runwire_agent.ship.broker import Message
from runwire_disk.spool.cut import Cut
from runwire_disk.spool.format import Meta
from runwire_disk.spool.letters import Loss, letter_about, loss_of
from runwire_schemas import codec
from runwire_schemas.registry import Registry, with_id

__all__ = ["ValueOf", "keep_bundled_id", "letter_message", "messages_of", "schema_ids"]

ValueOf = Callable[[str, bytes], bytes]
"""Rewrites the header of a kind's value to the schema id that readers shall see."""


def keep_bundled_id(kind: str, value: bytes) -> bytes:  # noqa: ARG001 - one signature for all
    """Leave the bundled schema id: every reader of ours knows it without a registry."""
    return value


def schema_ids(registry_url: str | None, topic_prefix: str) -> ValueOf:
    """Return the rewriter to a registry's ids; without a registry the bundled ids stay.

    While the registry does not answer, its ids are the bundled ones.
    """
    if not registry_url:
        return keep_bundled_id
    registry = Registry(registry_url, prefix=topic_prefix)

    def set_registered_id(kind: str, value: bytes) -> bytes:
        return with_id(value, registry.ids()[kind])

    return set_registered_id


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
