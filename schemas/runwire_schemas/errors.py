"""What can go wrong between an event and its bytes."""

from __future__ import annotations


class DecodeError(ValueError):
    """These bytes are no event of a schema we know; the message says what is wrong with them."""


class SchemaError(ValueError):
    """An event does not fit its schema, or a schema is missing; a fault of the calling code."""
