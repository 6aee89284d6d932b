"""Checkpoints on the disk of a test, read back without the run that saved them."""

from __future__ import annotations

import threading
from pathlib import Path

from runwire.checkpoints.local import LocalCheckpoints, LocalPart


def local_parts(root: Path, project: str = "p", run_id: str = "r") -> list[LocalPart]:
    """The whole parts of a run's checkpoints below a data root, oldest first."""
    return LocalCheckpoints(root / "checkpoints", project, run_id).parts()


def save_threads() -> list[threading.Thread]:
    """The threads of this process that save a checkpoint now."""
    return [t for t in threading.enumerate() if t.name == "runwire-checkpoint" and t.is_alive()]
