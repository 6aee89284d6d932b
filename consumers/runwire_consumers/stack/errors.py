"""What the stack and its commands raise for a failure that a user can act on."""

from __future__ import annotations

from runwire_schemas.errors import CommandError


class StackError(CommandError):
    """The stack or one of its commands failed for a reason that a user can act on."""
