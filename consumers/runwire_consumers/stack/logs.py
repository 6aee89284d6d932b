"""Log files of the supervisor and its children, with a size cap."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from runwire_disk import paths

BYTES_MAX = 8 * 1024 * 1024  # one old file is kept beside it: at most 16 MiB a child


def logs_dir(root: Path) -> Path:
    """Return the folder of the stack's logs."""
    return paths.embedded_dir(root) / "logs"


def open_log(path: Path) -> int:
    """Return a descriptor that appends; a child inherits it as stdout and stderr."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def cap_log(path: Path, bytes_max: int = BYTES_MAX) -> bool:
    """Move a log aside that is larger than `bytes_max`; whether it was.

    The file is copied and emptied in place, because the child keeps its descriptor, which appends
    at the new end. Lines written in between are lost.
    """
    try:
        if path.stat().st_size <= bytes_max:
            return False
        shutil.copyfile(path, path.with_suffix(".log.1"))
        os.truncate(path, 0)
    except FileNotFoundError:
        return False
    return True


def log_tail(path: Path, lines: int = 12) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
