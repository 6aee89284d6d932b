"""What the read side raises for a failure that a user can act on."""

from __future__ import annotations

from runwire_schemas.errors import CommandError


class QueryError(CommandError):
    """A question about stored runs failed for a reason that a user can act on."""
