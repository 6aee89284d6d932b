"""File descriptors of a reader of many spool folders: its limit, and how many it may still open."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Final

from runwire_disk.files import NO_DESCRIPTORS

__all__ = ["FILES_MAX", "RESERVE", "allow_many_files", "descriptors_left"]

FILES_MAX: Final = 65_536  # a spool of thousands of writers keeps a few files open for each
# Left for connections, logs and files of the moment, and for folders that open one more segment;
# a quarter of the limit where that is more, since an agent may be a thread of a trainer.
RESERVE: Final = 50


def allow_many_files() -> None:
    """Raise this process's limit on open files to the hard one, as far as it is of use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def descriptors_left() -> int:
    """Return how many descriptors spool folders may still take; the reserve is not among them."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = FILES_MAX if soft == resource.RLIM_INFINITY else soft
    try:
        used = len(os.listdir("/dev/fd"))  # noqa: PTH208 - names alone, for thousands of them
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:
            return 0
        return limit  # a system without that folder: the error of an open tells
    return max(0, limit - used - max(RESERVE, limit // 4))
