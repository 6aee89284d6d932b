"""Recognition of exceptions that a signal handler of the user raised inside a call of runwire.

Such an exception has to reach the user: a time limit raised by SIGALRM, or a pre-emption raised by
SIGTERM, is no failure of the call that it happened to interrupt.
"""

from __future__ import annotations

from types import FrameType, TracebackType

__all__ = ["interrupt_of"]

# Exceptions that caused one another; more than this many is a loop.
_CHAIN_MAX = 20


def interrupt_of(error: BaseException) -> BaseException | None:
    """Return the exception of a handler that `error` is, or that our code turned into `error`.

    An exception that was handled before the call began is not meant: it was caught by code that is
    not ours, where its traceback begins.
    """
    current: BaseException | None = error
    for _ in range(_CHAIN_MAX):
        if current is None:
            return None
        if _was_interrupt(current) and (current is error or _was_caught_by_us(current)):
            return current
        current = current.__cause__ or current.__context__
    return None


def _was_interrupt(error: BaseException) -> bool:
    """Whether a function raised it that was called with the frame that it interrupted.

    Python calls signal handlers, and trace functions, between two instructions of a frame and
    passes that frame: no other function gets its own caller as an argument.
    """
    step: TracebackType | None = error.__traceback__
    while step is not None and step.tb_next is not None:
        if _takes(step.tb_next.tb_frame, step.tb_frame):
            return True
        step = step.tb_next
    return False


def _takes(frame: FrameType, caller: FrameType) -> bool:
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)  # *args, **kwargs
    given = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
    return any(
        value is caller or (type(value) is tuple and any(item is caller for item in value))
        for value in given
    )


def _was_caught_by_us(error: BaseException) -> bool:
    step = error.__traceback__
    module = "" if step is None else str(step.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0].startswith("runwire")
