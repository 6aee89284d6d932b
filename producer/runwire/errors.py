"""The errors that the SDK raises: only while `init` runs, or later in strict mode."""

from __future__ import annotations

__all__ = ["ConfigError", "RunwireError"]


class RunwireError(Exception):
    """Root of everything that `runwire` raises on purpose."""


class ConfigError(RunwireError, ValueError):
    """A setting or an argument is not usable; the message says which one and what to do."""
