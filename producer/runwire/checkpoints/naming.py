"""What a run's checkpoints are called; the command line finds them by the same word."""

from __future__ import annotations

from runwire_store.manifest import checkpoint_name

__all__ = ["checkpoint_name"]
