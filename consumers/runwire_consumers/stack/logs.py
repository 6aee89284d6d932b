"""Log files of the children, with a size cap."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

BYTES_MAX = 8 * 1024 * 1024  # one old file is kept beside it: at most 16 MiB a child


def open_log(path: Path) -> int:
    """A descriptor that appends; a child inherits it as stdout and stderr."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def cap(path: Path, bytes_max: int = BYTES_MAX) -> bool:
    """Move a log that grew too large aside; whether it did.

    The file is copied and emptied in place, because the child keeps its descriptor: it was opened
    for appending, so it goes on at the new end. Lines written in between are lost.
    """
    try:
        if path.stat().st_size <= bytes_max:
            return False
        shutil.copyfile(path, path.with_suffix(".log.1"))
        os.truncate(path, 0)
    except FileNotFoundError:
        return False
    return True
