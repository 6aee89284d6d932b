"""Hooks that reset a forked child: locks, files and threads belong to the parent."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable
from typing import Protocol

__all__ = ["AfterFork", "register", "unregister"]

_log = logging.getLogger("runwire")


class AfterFork(Protocol):
    """Owner of state that a forked child must drop or re-create."""

    def after_fork_in_child(self) -> None:
        """Drop or re-create it, in the child."""


# Weak: an open hook must not keep a run, and with it its files, alive.
_hooks: list[weakref.WeakMethod[Callable[[], None]]] = []
_installed = False


def register(owner: AfterFork) -> None:
    """Call `owner.after_fork_in_child()` in every forked child from now on.

    Hooks run in the order of registration; one that fails does not stop the others.
    """
    global _installed
    _hooks[:] = [hook for hook in _hooks if hook() is not None]
    method = owner.after_fork_in_child
    if not any(hook() == method for hook in _hooks):
        _hooks.append(weakref.WeakMethod(method))
    if not _installed and hasattr(os, "register_at_fork"):
        _installed = True
        os.register_at_fork(after_in_child=_run_hooks)


def unregister(owner: AfterFork) -> None:
    """Remove the hook of `owner`; harmless when it was never registered."""
    method = owner.after_fork_in_child
    _hooks[:] = [hook for hook in _hooks if hook() not in (None, method)]


def _run_hooks() -> None:
    for hook in tuple(_hooks):
        method = hook()
        if method is None:
            continue
        try:
            method()
        except Exception as exc:
            _log.warning(
                "runwire: a forked child (pid %d) could not reset its state: %s: %s. It logs "
                "nothing; the parent is not affected.",
                os.getpid(),
                type(exc).__name__,
                exc,
            )
