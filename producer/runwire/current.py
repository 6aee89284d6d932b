"""Current runs: one stack per context (thread, task), and the runs of the whole process.

A context sees its own newest live run. One without a live run of its own, such as a helper thread,
sees the newest live run of the main thread, else the newest of any thread.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from runwire.errors import RunwireError

if TYPE_CHECKING:
    from runwire.run import Run

__all__ = ["active_run", "at_boundary", "current", "live_run", "own_run", "push"]

P = ParamSpec("P")
T = TypeVar("T")

_stack: ContextVar[tuple[weakref.ref[Run], ...]] = ContextVar("runwire_stack", default=())
# Live runs of this process with the thread that started them. A run that nobody holds any more
# stays here, and so ends as finished when the process does.
_started: list[tuple[Run, int]] = []
_last: Run | None = None
# The one open run of this process, current in every context.
_only: Run | None = None


def push(run: Run) -> None:
    """Make `run` the current one of this context, until it ends."""
    global _last
    _last = run
    _started.append((run, threading.get_ident()))
    _settle()
    _stack.set((*(ref for ref in _stack.get() if _is_active(ref())), weakref.ref(run)))


def _settle() -> None:
    """Forget the runs that have ended; note when only one is open."""
    global _only
    for entry in tuple(_started):
        if not entry[0].is_active:
            with suppress(ValueError):  # another thread was faster
                _started.remove(entry)
    still_open = tuple(_started)
    _only = still_open[0][0] if len(still_open) == 1 else None
    # Another thread may have added a run in between. It does so before it looks, and this one sets
    # its answer before it looks again: one of the two sees both runs.
    if len(_started) != 1:
        _only = None


def own_run() -> Run | None:
    """Return the newest live run that this context started, None without one.

    In a notebook every cell may have a context of its own: there it is that of the thread.
    """
    for ref in reversed(_stack.get()):
        run = ref()
        if run is not None and run.is_active:
            return run
    if not _is_notebook():
        return None
    here = threading.get_ident()
    return next((run for run, ident in reversed(_started) if run.is_active and ident == here), None)


def active_run() -> Run | None:
    """Return the live run that this context logs to; None before `init` and after `finish`."""
    for ref in reversed(_stack.get()):
        run = ref()
        if run is not None and run.is_active:
            return run
    live = [(run, ident) for run, ident in _started if run.is_active]
    main = threading.main_thread().ident
    return next(
        (run for run, ident in reversed(live) if ident == main), live[-1][0] if live else None
    )


def live_run(run_id: str) -> Run | None:
    """Return the newest live run of this process with an id."""
    return next((run for run, _ in reversed(_started) if run.is_active and run.id == run_id), None)


def current() -> Run:
    """Return the run that module functions act on: the active one, else the last that ended.

    Raises: RunwireError before the first `init`.
    """
    run = _only  # every `runwire.log` comes here
    if run is None:
        _settle()
        run = active_run() or _last
    if run is None:
        raise RunwireError("there is no run yet: call runwire.init(project=...) first")
    return run


def at_boundary(function: Callable[P, T]) -> Callable[P, T]:
    """Let the method of the current run report arguments that `function` itself does not take."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise  # from inside
        method: Callable[P, T] = getattr(current(), function.__name__)
        return method(*args, **kwargs)

    return call


def _is_active(run: Any) -> bool:
    return run is not None and bool(run.is_active)


def _is_notebook() -> bool:
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return callable(get_ipython) and get_ipython() is not None
