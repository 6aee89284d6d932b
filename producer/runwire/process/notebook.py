"""Notebooks: a cell that fails is noted, the next cell takes it back, no cell ends the run."""

from __future__ import annotations

import sys
import weakref
from typing import Any

from runwire.process.exits import EndableRun, outcome_of

__all__ = ["install", "uninstall"]

_hooks: weakref.WeakKeyDictionary[Any, _CellHooks] = weakref.WeakKeyDictionary()


class _CellHooks:
    """IPython swallows a cell's exception before `sys.excepthook` could see it."""

    def __init__(self, run: EndableRun) -> None:
        self._run = weakref.ref(run)

    def before(self, *_info: Any) -> None:
        run = self._run()
        if run is not None:
            run._note_outcome(None)  # noqa: SLF001 - the protocol

    def after(self, result: Any = None) -> None:
        run = self._run()
        error = getattr(result, "error_in_exec", None)
        if run is not None and isinstance(error, BaseException):
            run._note_outcome(outcome_of(error))  # noqa: SLF001 - the protocol


def install(run: EndableRun) -> bool:
    """Follow the cells of the IPython shell that this process is, if it is one."""
    shell = _shell()
    if shell is None or run in _hooks:
        return shell is not None
    hooks = _CellHooks(run)
    shell.events.register("pre_run_cell", hooks.before)
    shell.events.register("post_run_cell", hooks.after)
    _hooks[run] = hooks
    return True


def uninstall(run: EndableRun) -> None:
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
