"""What a run offers for checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runwire.guard import Guard

if TYPE_CHECKING:
    from runwire.session import Session


class CheckpointCalls:
    """The part of `Run` that saves and loads checkpoints. Threads: safe."""

    guard: Guard
    _session: Session
