"""The errors that the SDK raises: from `init`, from calls whose result is needed, or if strict."""

from __future__ import annotations

from runwire_schemas.errors import ConfigError, RunwireError

__all__ = ["ArtifactError", "CheckpointError", "ConfigError", "RunwireError"]


class ArtifactError(RunwireError):
    """An artifact cannot be kept or downloaded; the message says which and what to do."""


class CheckpointError(RunwireError):
    """A checkpoint cannot be saved, found or loaded; the message says which and what to do."""
