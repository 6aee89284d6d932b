"""Exceptions at a chosen bytecode of the product: Ctrl-C, signal handlers, trace functions."""

from __future__ import annotations

import _thread
import ctypes
import functools
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

# How an exception comes, with its class. That of the signal handler is an OSError, as most are.
KINDS = ("keyboard", "handler", "trace", "sent")
SIGNAL = signal.SIGUSR1


class TraceError(RuntimeError):
    """What the trace function raises."""


class SentError(Exception):
    """What another thread sends; Python makes it without arguments."""


ERRORS: dict[str, type[BaseException]] = {
    "keyboard": KeyboardInterrupt,
    "handler": TimeoutError,
    "trace": TraceError,
    "sent": SentError,
}


def _on_signal(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"the user's own time limit, by signal {signum}")


def _send() -> Callable[[], Any]:
    thread = ctypes.c_ulong(threading.main_thread().ident or 0)
    send = ctypes.pythonapi.PyThreadState_SetAsyncExc
    return functools.partial(send, thread, ctypes.py_object(SentError))


def _trigger(make_pending: Callable[[], Any]) -> Any:
    """An object whose negation calls a C function.

    A call would let the interpreter look for signals at once, in the trace function; the negation
    leaves the exception to the code that is traced.
    """
    return type("Trigger", (), {"__neg__": staticmethod(make_pending)})()


class Interruption:
    """Runs a call; at its `at`-th bytecode in the product an exception of `kind` comes up.

    `bytecodes` counts those of the call; an `at` of 0 interrupts none.
    """

    def __init__(self, kind: str, at: int = 0) -> None:
        self.error = ERRORS[kind]
        self._at, self.bytecodes = at, 0
        self._is_ignored = False
        self._raises = kind == "trace"
        pending = {"keyboard": _thread.interrupt_main, "sent": _send()}
        self._trigger = _trigger(
            pending.get(kind, functools.partial(_thread.interrupt_main, SIGNAL))
        )
        signal.signal(SIGNAL, _on_signal)

    @property
    def is_due(self) -> bool:
        """Whether the bytecode was reached."""
        return 0 < self._at <= self.bytecodes

    def run(self, call: Callable[[], Any]) -> str:
        """Return "raised" when the exception reached the caller, else "returned".

        "ignored" where it came up in a destructor, whose exceptions Python itself swallows.
        """
        before, sys.unraisablehook = sys.gettrace(), self._on_unraisable
        try:
            sys.settrace(self._follow)
            call()
            sys.settrace(before)
            for _ in range(100):  # one that is pending still comes here
                pass
        except self.error:
            return "raised"
        finally:
            sys.settrace(before)
            sys.unraisablehook = sys.__unraisablehook__
        return "ignored" if self._is_ignored else "returned"

    def _on_unraisable(self, what: Any) -> None:
        if what.exc_type is self.error:
            self._is_ignored = True
        else:
            sys.__unraisablehook__(what)

    def _follow(self, frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_globals.get("__name__") or ""
        # Python itself swallows what is raised in a destructor.
        if not name.startswith("runwire") or frame.f_code.co_name == "__del__":
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, _: Any) -> Any:
        caller: FrameType | None = frame
        if event == "opcode":
            self.bytecodes += 1
            if self.bytecodes == self._at:
                if self._raises:
                    raise TraceError("raised by a trace function")
                # The interpreter would look for signals at the next call of a trace function, which
                # is where no call of the product is.
                while caller is not None:
                    caller.f_trace = None
                    caller = caller.f_back
                _ = -self._trigger
                return None
        return self._step
