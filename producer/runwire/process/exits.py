"""Ends of a process, and what its runs record about them.

    end of the process                      status        by
    last line, sys.exit(0)                  finished      atexit
    sys.exit(n != 0)                        failed (n)    atexit; `sys.exit` is wrapped to learn n
    sys.exit(143), sys.exit(130)            preempted, interrupted: 128 + SIGTERM or SIGINT
    exception                               failed        sys.excepthook, then atexit
    KeyboardInterrupt (Ctrl-C)              interrupted   sys.excepthook, then atexit
    exception in a thread                   finished      atexit; the reason names the thread
    a child of multiprocessing returns,     as above      its finalizer: such a child ends by
      raises or exits                                     os._exit, without atexit
    SIGTERM (see `preemption`)              preempted     the signal handler
    os._exit, SIGKILL, crash in C           killed        the agent, from the freed writer.lock

`from sys import exit` and the built-in exit() and quit() are wrapped with `sys.exit`. Python shows
the code of any other `raise SystemExit(n)` to nobody, outside of `with init(...)` and of children
of multiprocessing: such a run is recorded as finished, with a reason that says so.
Exit codes and previous hooks are never changed.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from opcode import opmap
from types import FrameType, TracebackType
from typing import Any, NoReturn, Protocol

from runwire.process import exit_names, preemption
from runwire.safe_text import redact_text
from runwire_disk import fork

__all__ = ["Endable", "Outcome", "install", "outcome_of", "uninstall"]

TRACEBACK_CHARS_MAX = 16_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """End of a run: status word, reason in a sentence, exit code and traceback if known."""

    status: str
    reason: str | None = None
    exit_code: int | None = None
    traceback: str | None = None

    def as_fields(self) -> dict[str, Any]:
        """Return the fields of a finish event."""
        return {
            "status": self.status,
            "status_reason": self.reason,
            "exit_code": self.exit_code,
        }


class Endable(Protocol):
    """A run as these hooks see it. None of its methods may raise or start a thread."""

    def note_outcome(self, outcome: Outcome | None) -> None:
        """Remember how the process is about to end; None takes it back (notebook cells)."""

    def note_preemption(self, signum: int, *, final: bool) -> None:
        """Record a pre-emption signal; `final`: the process dies as soon as this returns."""

    def finish_at_exit(self, outcome: Outcome) -> None:
        """Finish with `outcome` unless already finished."""


_runs: weakref.WeakSet[Any] = weakref.WeakSet()
_previous_excepthook: Callable[..., Any] | None = None
_previous_threading_hook: Callable[..., Any] | None = None
_previous_exit: Callable[..., NoReturn] | None = None
_atexit_registered = False
_child_pid = -1  # the child of multiprocessing whose finalizers end its runs
_noted: Outcome | None = None  # how this process is ending, for runs that end at exit
_thread_reason: str | None = None
_main: FrameType | None = None  # the main thread's outermost frame: it shows how it was left
_RETURNS = frozenset(code for name, code in opmap.items() if name.startswith("RETURN_"))
_UNSEEN_CODE = (
    "the process was ended by `raise SystemExit` with a code that Python shows to nobody: use "
    "sys.exit(code), or `with runwire.init()`"
)


def install(run: Endable, *, preempt_signals: tuple[str, ...] = ("SIGTERM",)) -> None:
    """Report the end of this process to `run`, which stays collectable."""
    global _previous_excepthook, _previous_threading_hook, _previous_exit, _atexit_registered
    global _noted, _thread_reason, _main
    if not len(_runs):
        _noted = _thread_reason = None
    _runs.add(run)
    fork.register(_child)
    if _previous_excepthook is None:
        _previous_excepthook = sys.excepthook
        sys.excepthook = _excepthook
    if _previous_threading_hook is None:
        _previous_threading_hook = threading.excepthook
        threading.excepthook = _threading_hook
    if _previous_exit is None:
        _previous_exit = sys.exit
        sys.exit = _exit
        exit_names.replace(_previous_exit, _exit)
    if not _atexit_registered:
        _atexit_registered = True
        atexit.register(_at_exit)
    _main = _outermost_frame()
    _register_in_child()
    preemption.install(run, preempt_signals)


def uninstall(run: Endable) -> None:
    """Forget `run`; with the last one, remove the hooks that nobody else has wrapped."""
    global _previous_excepthook, _previous_threading_hook, _previous_exit
    _runs.discard(run)
    preemption.uninstall(run)
    if len(_runs):
        return
    # A wrapped hook stays: without runs it only calls the previous one.
    if sys.excepthook is _excepthook and _previous_excepthook is not None:
        sys.excepthook, _previous_excepthook = _previous_excepthook, None
    if threading.excepthook is _threading_hook and _previous_threading_hook is not None:
        threading.excepthook, _previous_threading_hook = _previous_threading_hook, None
    if sys.exit is _exit and _previous_exit is not None:
        exit_names.restore()
        sys.exit, _previous_exit = _previous_exit, None


def outcome_of(exc: BaseException | None) -> Outcome:
    """Return the outcome of a block or process that ended with `exc`; None means success."""
    if exc is None:
        return Outcome(status="finished", exit_code=0)
    if isinstance(exc, SystemExit):
        return _exit_outcome(exc.code)
    if isinstance(exc, KeyboardInterrupt):
        return Outcome(
            status="interrupted", reason="interrupted from the keyboard (SIGINT)", exit_code=130
        )
    try:
        text = "".join(traceback.format_exception(exc))[-TRACEBACK_CHARS_MAX:]
    except Exception:  # __str__ of a user's exception may fail
        text = ""
    return Outcome(
        status="failed",
        reason=_one_line(exc),
        exit_code=1,
        traceback=redact_text(text) or None,
    )


def _exit_outcome(code: object) -> Outcome:
    if code is None or code == 0:
        return Outcome(status="finished", exit_code=0)
    if isinstance(code, int):
        # Programs that end because of a signal exit with 128 + its number.
        status = {128 + signal.SIGTERM: "preempted", 128 + signal.SIGINT: "interrupted"}.get(code)
        reason = f"exited with code {code}"
        return Outcome(status=status or "failed", reason=reason, exit_code=code & 0xFF)
    # Python prints any other object and exits with 1.
    return Outcome(status="failed", reason=redact_text(str(code)[:500]), exit_code=1)


def _one_line(exc: BaseException | None) -> str:
    try:
        text = str(exc)
    except Exception:
        text = "(its message cannot be shown)"
    name = type(exc).__qualname__
    line = re.sub(r"\s+", " ", f"{name}: {text}" if text else name).strip()
    return redact_text(line[:500])


def _note(outcome: Outcome | None) -> None:
    global _noted
    _noted = outcome
    for run in list(_runs):
        try:
            run.note_outcome(outcome)
        except Exception:  # noqa: S112 - the process is ending; the user's own hook comes next
            continue


def _excepthook(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    try:
        if len(_runs):
            _note(outcome_of(exc))
    finally:
        (_previous_excepthook or sys.__excepthook__)(kind, exc, trace)


def _threading_hook(args: threading.ExceptHookArgs, /) -> None:
    global _thread_reason
    try:
        # sys.exit in a thread ends that thread quietly and is no failure.
        silent = args.exc_value is None or issubclass(args.exc_type, SystemExit)
        if len(_runs) and not silent and _thread_reason is None:
            name = args.thread.name if args.thread is not None else "unknown"
            _thread_reason = f"an exception ended thread {name!r}: {_one_line(args.exc_value)}"
    finally:
        (_previous_threading_hook or threading.__excepthook__)(args)


class _Watch:
    """An attribute of the SystemExit of `sys.exit` that notices whether it ended the process.

    Python drops an uncaught SystemExit when the last frame of the main thread is gone; a caught
    one (click, pytest) is dropped while frames still run, and means nothing.
    """

    __slots__ = ("outcome",)

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def __del__(self) -> None:
        if sys.is_finalizing() or threading.current_thread() is not threading.main_thread():
            return
        if sys._getframe().f_back is None:  # noqa: SLF001 - the documented way to the stack
            _note(self.outcome)


def _exit(status: Any = None, /) -> NoReturn:
    exc = SystemExit(status)
    if len(_runs):
        exc._runwire_watch = _Watch(_exit_outcome(status))  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        raise exc
    finally:
        del exc  # or exception, traceback and this frame would keep each other alive


def _register_in_child() -> None:
    """End the runs of a child of multiprocessing with its own finalizers."""
    global _child_pid
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None or _child_pid == os.getpid():
        return
    from multiprocessing import util

    _child_pid = os.getpid()
    util.Finalize(None, _at_child_end, exitpriority=-1)  # after its own children were joined


def _at_child_end() -> None:
    error = sys.exception()  # that the child's function ended with
    _end_runs(_noted_outcome() if error is None else outcome_of(error))


def _at_exit() -> None:
    if _noted is None and _main is not None and _is_left_by_exception(_main):
        _end_runs(Outcome(status="finished", reason=_UNSEEN_CODE))
    else:
        _end_runs(_noted_outcome())


def _noted_outcome() -> Outcome:
    return _noted or Outcome(status="finished", reason=_thread_reason, exit_code=0)


def _outermost_frame() -> FrameType | None:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - documented
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _is_left_by_exception(frame: FrameType) -> bool:
    """Return whether a frame that has ended was not left by a return."""
    return frame.f_lasti >= 0 and frame.f_code.co_code[frame.f_lasti] not in _RETURNS


def _end_runs(outcome: Outcome) -> None:
    for run in list(_runs):
        try:
            run.finish_at_exit(outcome)
        except Exception as exc:
            sys.stderr.write(
                f"runwire: a run could not be finished at exit: {type(exc).__name__}: {exc}. What "
                "it logged is in the spool; the agent records its end.\n"
            )


class _Child:
    """The end of a forked child is not the end of the parent's runs."""

    def after_fork_in_child(self) -> None:
        _runs.clear()
        _note(None)


_child = _Child()
