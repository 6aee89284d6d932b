"""The errors that the SDK raises: from `init`, from calls whose result is needed, or if strict."""

from __future__ import annotations

__all__ = ["ArtifactError", "CheckpointError", "ConfigError", "RunwireError"]


class RunwireError(Exception):
    """Root of everything that `runwire` raises on purpose."""


class ConfigError(RunwireError, ValueError):
    """A setting or an argument is not usable; the message says which one and what to do."""


class ArtifactError(RunwireError):
    """An artifact could not be kept or brought back; the message says which and what to do."""


class CheckpointError(RunwireError):
    """A checkpoint cannot be saved, found or loaded; the message says which and what to do."""
