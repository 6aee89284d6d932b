"""Notebook cells: a failed cell is noted, the next one clears the note, none ends the run."""

from __future__ import annotations

import sys
import weakref
from typing import Any

from runwire.process.exits import Endable, outcome_of

__all__ = ["install", "uninstall"]

_hooks: weakref.WeakKeyDictionary[Any, _CellHooks] = weakref.WeakKeyDictionary()


class _CellHooks:
    """IPython swallows a cell's exception before `sys.excepthook` could see it."""

    def __init__(self, run: Endable) -> None:
        self._run = weakref.ref(run)

    def before(self, *_info: Any) -> None:
        run = self._run()
        if run is not None:
            run.note_outcome(None)

    def after(self, result: Any = None) -> None:
        run = self._run()
        error = getattr(result, "error_in_exec", None)
        if run is not None and isinstance(error, BaseException):
            run.note_outcome(outcome_of(error))


def install(run: Endable) -> bool:
    """Follow the cells of this process's IPython shell; false where it has none."""
    shell = _shell()
    if shell is None or run in _hooks:
        return shell is not None
    hooks = _CellHooks(run)
    shell.events.register("pre_run_cell", hooks.before)
    shell.events.register("post_run_cell", hooks.after)
    _hooks[run] = hooks
    return True


def uninstall(run: Endable) -> None:
    """Stop following cells for `run`; harmless outside of notebooks."""
    hooks = _hooks.pop(run, None)
    shell = _shell()
    if hooks is None or shell is None:
        return
    for event, hook in (("pre_run_cell", hooks.before), ("post_run_cell", hooks.after)):
        try:
            shell.events.unregister(event, hook)
        except ValueError:  # somebody reset the shell's events
            continue


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    get_ipython = getattr(ipython, "get_ipython", None)
    return get_ipython() if callable(get_ipython) else None
