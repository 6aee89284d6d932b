"""Checkpoints: saved atomically, verified and loaded.

`read_checkpoint(path)` loads a downloaded one without a run.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Checkpoint", "CheckpointError", "Retention", "read_checkpoint"]

_FROM = {
    "Checkpoint": "runwire.checkpoints.loading",
    "CheckpointError": "runwire.errors",
    "Retention": "runwire_store.retention",
    "read_checkpoint": "runwire.checkpoints.loading",
}


def __getattr__(name: str) -> Any:
    # A trainer that never loads one does not import the modules of loading.
    if name in _FROM:
        import importlib

        return getattr(importlib.import_module(_FROM[name]), name)
    raise AttributeError(f"module 'runwire.checkpoints' has no attribute {name!r}")
