"""Interrupts: exceptions that strike code from outside, such as those of a user's signal handler.

They are no failures of the code that they strike: whoever swallows or counts failures lets them
pass to the user who raised them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from itertools import pairwise
from types import FrameType

__all__ = ["interrupt_of", "is_interrupt", "reraise_interrupt", "suppressed"]

_OURS = "runwire"
# `PyThreadState_SetAsyncExc` raises a class without arguments. Our own code and C code raise these
# built-in ones with a sentence.
_SENT = (Exception, RuntimeError, TimeoutError, InterruptedError)
# Code that our calls run through, besides that of the user: "" is the standard library.
_BELOW = (_OURS, "", "torch", "numpy")
_CO_VARARGS, _CO_VARKEYWORDS = 0x04, 0x08


def reraise_interrupt(error: BaseException) -> None:
    """Raise the interrupt that is or caused `error`; return where there is none."""
    interrupt = interrupt_of(error)
    if interrupt is not None:
        raise interrupt


@contextlib.contextmanager
def suppressed(*errors: type[Exception]) -> Iterator[None]:
    """Swallow these errors of a block, as `contextlib.suppress` does, but no interrupt."""
    try:
        yield
    except errors as error:
        reraise_interrupt(error)


def interrupt_of(error: BaseException) -> BaseException | None:
    """Return the interrupt that is `error`, or that our code replaced by it.

    One that is still being handled, by a cleanup that `error` is a failure of, is not replaced: it
    goes on to the user by itself once the cleanup is done.
    """
    seen: set[int] = set()
    while not is_interrupt(error):
        seen.add(id(error))
        cause = error.__cause__ or error.__context__
        if cause is None or id(cause) in seen or not _is_replaced(cause, error):
            return None
        error = cause
    return error


def is_interrupt(error: BaseException) -> bool:
    """Tell whether a signal handler, a trace function or another thread raised an exception."""
    frames = list(_frames(error))
    if any(_is_given(after, before) for before, after in pairwise(frames)):
        return True
    return bool(frames) and _is_sent(error, frames[-1])


def _is_replaced(cause: BaseException, error: BaseException) -> bool:
    """Tell whether `error` came up in the frame that caught `cause`, and left it.

    What the user's own code replaced is its own decision.
    """
    trace = cause.__traceback__
    if trace is None or _room(trace.tb_frame) not in _BELOW:
        return False
    return any(frame is trace.tb_frame for frame in _frames(error))


def _frames(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _is_given(frame: FrameType, interrupted: FrameType) -> bool:
    """Tell whether a frame has the one below it as an argument: only such handlers do.

    Signal handlers and trace functions get the frame, callbacks of `sys.monitoring` its code.
    """
    code = frame.f_code
    flags = bool(code.co_flags & _CO_VARARGS) + bool(code.co_flags & _CO_VARKEYWORDS)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + flags]
    given: list[object] = []
    for name in names:
        value = frame.f_locals.get(name)
        given += value if type(value) is tuple else (value,)
    return any(value is interrupted or value is interrupted.f_code for value in given)


def _is_sent(error: BaseException, frame: FrameType) -> bool:
    """Tell whether another thread sent the exception: it has no arguments and nobody's type."""
    room = _room(frame)
    if error.args or room not in _BELOW:
        return False
    home = type(error).__module__.partition(".")[0]
    if home == "builtins":
        return type(error) in _SENT and room == _OURS
    is_known = home.startswith(_OURS) or home == room or home in sys.stdlib_module_names
    return not is_known


def _room(frame: FrameType) -> str:
    """Return where a frame's code is from: our packages, "" for the standard library, another."""
    home = str(frame.f_globals.get("__name__", "?")).partition(".")[0]
    if home.startswith(_OURS):
        return _OURS
    return "" if home in sys.stdlib_module_names else home
