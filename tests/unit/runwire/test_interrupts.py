"""Exceptions of the user's own signal handlers, told apart from failures of a call."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from runwire.announcements import say
from runwire.guard import Guard
from runwire.settings import Settings
from runwire_disk.interrupts import interrupt_of


class OverdueError(Exception):
    pass


def plain(_signum: int, _frame: FrameType | None) -> None:
    raise OverdueError


def wrapped(*args: Any) -> None:
    plain(*args)


class Handler:
    def __call__(self, _signum: int, _frame: FrameType | None) -> None:
        raise OverdueError

    def method(self, *, signum: int = 0, frame: FrameType | None = None) -> None:
        raise OverdueError


def once(signum: int, frame: FrameType | None) -> None:
    """Takes itself away before it raises, as many do."""
    signal.signal(signum, signal.SIG_DFL)
    plain(signum, frame)


@pytest.fixture
def _usr1() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


HANDLERS = [
    plain,
    wrapped,
    once,
    Handler(),
    functools.partial(plain),
    lambda signum, frame: Handler().method(signum=signum, frame=frame),
]


@pytest.mark.usefixtures("_usr1")
@pytest.mark.parametrize("handler", HANDLERS)
def test_exception_of_a_signal_handler_passes_the_guard(handler: Callable[..., None]) -> None:
    """Functions, methods, partials, lambdas and wrappers, also those that remove themselves."""
    signal.signal(signal.SIGUSR1, handler)
    guard = Guard()
    with pytest.raises(OverdueError), guard.catching("work"):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert guard.counts == {}


@pytest.mark.usefixtures("_usr1")
def test_time_out_of_a_handler_passes_when_our_code_turned_it_into_another() -> None:
    """TimeoutError is an OSError, which code that writes files turns into a sentence."""

    def late(_signum: int, _frame: FrameType | None) -> None:
        raise TimeoutError("an hour is over")

    signal.signal(signal.SIGUSR1, late)
    guard, ours = Guard(), {"__name__": "runwire.outbox.x", "os": os, "signal": signal}
    exec(
        "def write():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    except OSError as error:\n"
        "        raise ValueError('the disk') from error\n",
        ours,
    )
    with pytest.raises(TimeoutError, match="an hour"), guard.catching("work"):
        ours["write"]()


@pytest.mark.usefixtures("_usr1")
def test_failure_while_a_user_handles_an_earlier_interrupt_is_a_failure() -> None:
    """The user's `except` saves a last checkpoint: what fails in it is reported, not raised."""
    signal.signal(signal.SIGUSR1, plain)
    guard = Guard()
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
    except OverdueError:
        with guard.catching("work"):
            os.stat("/none")  # noqa: PTH116 - raises with the interrupt as its context
    assert guard.counts == {"work": 1}


@pytest.mark.usefixtures("_usr1")
def test_exception_of_a_handler_passes_where_a_line_is_printed_or_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broken stderr or log handler is ignored, an interrupt in it is not."""
    signal.signal(signal.SIGUSR1, plain)

    class Slow(logging.StreamHandler[Any]):
        def handle(self, record: logging.LogRecord) -> bool:
            os.kill(os.getpid(), signal.SIGUSR1)
            return True

        def write(self, _text: str) -> None:
            os.kill(os.getpid(), signal.SIGUSR1)

    slow = Slow()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", slow)
        with pytest.raises(OverdueError):
            say(Settings(), "a line")
    logger = logging.getLogger("runwire")
    logger.addHandler(slow)
    try:
        with pytest.raises(OverdueError):
            logger.warning("a line")
    finally:
        logger.removeHandler(slow)


def test_exceptions_of_functions_that_get_other_frames_are_failures() -> None:
    """Only the caller's own frame marks a handler."""

    def inspects(_frame: FrameType, _depth: int = 2) -> None:
        raise ValueError("wrong")

    def between(frame: FrameType) -> None:
        inspects(frame)

    with pytest.raises(ValueError, match="wrong") as raised:
        between(inspect.currentframe().f_back)
    assert interrupt_of(raised.value) is None
    assert interrupt_of(ValueError()) is None
