"""Callbacks for the end of a test session: they stop the servers that the session started.

A worker of xdist is killed ten seconds after it has reported its last test, too early for handlers
of atexit that stop brokers. `tests/conftest.py` runs these callbacks before that report.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any

_callbacks: list[tuple[int, Callable[[], Any]]] = []


def at_session_end(callback: Callable[[], Any]) -> None:
    """Run the callback once at the end of the session, the latest one first."""
    if not _callbacks:
        atexit.register(run_callbacks)  # a session that breaks off has no other end
    _callbacks.append((os.getpid(), callback))


def run_callbacks() -> None:
    """Run and forget what this process registered; a forked child leaves it to its parent."""
    while _callbacks:
        owner, callback = _callbacks.pop()
        if owner == os.getpid():
            callback()
