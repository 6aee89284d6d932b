"""Exceptions from outside are told apart from failures of the code that they strike."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from runwire_disk import interrupts


class LimitError(Exception):
    """A time limit of the user."""


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """A signal handler that raises."""

    def limit(*_: object) -> None:
        raise LimitError("time is over")

    before = signal.signal(signal.SIGUSR1, limit)
    yield
    signal.signal(signal.SIGUSR1, before)


def struck() -> Exception:
    """An exception of the handler, as one who catches it has it."""
    try:
        signal.raise_signal(signal.SIGUSR1)
    except LimitError as error:
        return error
    raise AssertionError("no signal came")


def fail_while_handling() -> None:
    """A failure of a call that the user made while he handled his time limit."""
    try:
        signal.raise_signal(signal.SIGUSR1)
    except LimitError:
        raise ValueError("of our own") from None


def test_exception_of_a_signal_handler_passes_a_suppression() -> None:
    """Errors of the block itself are swallowed, the same class from a handler is not."""
    with interrupts.suppressed(LimitError):
        raise LimitError("an error of the block")
    with pytest.raises(LimitError, match="time is over"), interrupts.suppressed(LimitError):
        signal.raise_signal(signal.SIGUSR1)


def test_failure_while_the_user_handles_an_interrupt_is_a_failure() -> None:
    """What the user had caught before he called us is not raised at him again."""
    assert interrupts.is_interrupt(struck())
    with pytest.raises(ValueError, match="of our own") as caught:
        fail_while_handling()
    assert interrupts.interrupt_of(caught.value) is None
    interrupts.reraise_interrupt(caught.value)


def clean_up_after_interrupt(done: list[str]) -> None:
    """Work of our own with a cleanup whose first half fails, as for a file that was never made."""

    def remove(path: str) -> None:
        with interrupts.suppressed(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - as the product does
        done.append(path)

    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        remove("/none/1")
        remove("/none/2")


def test_cleanup_after_an_interrupt_swallows_its_own_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interrupt that is being handled is not raised in the middle of the cleanup."""
    # As if this code was of our packages: frames tell by the name of their module.
    monkeypatch.setitem(globals(), "__name__", "runwire.cleaning")
    done: list[str] = []
    with pytest.raises(LimitError, match="time is over"):
        clean_up_after_interrupt(done)
    assert done == ["/none/1", "/none/2"]


def test_function_that_takes_a_frame_is_no_handler() -> None:
    """Only the frame right below marks a handler, not any frame that a function is given."""

    def inspect(frame: FrameType | None) -> None:
        raise LimitError(str(frame))

    with pytest.raises(LimitError) as caught:
        inspect(None)
    assert not interrupts.is_interrupt(caught.value)


def run_in(library: str, code: str) -> Exception:
    """The exception of code of a library, as one who catches it has it."""
    names = {"__name__": library, "LimitError": LimitError, "signal": signal}
    try:
        exec(code, names)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


# What a raise without arguments looks like is what another thread sends.
SENT = "raise LimitError"
REPLACED = """
try:
    signal.raise_signal(signal.SIGUSR1)
except LimitError:
    raise RuntimeError("cannot write the end of the file")
"""


@pytest.mark.parametrize(
    ("library", "is_interrupt"),
    [("runwire.x", True), ("pathlib", True), ("torch.serialization", True), ("__main__", False)],
)
@pytest.mark.parametrize("code", [SENT, REPLACED])
def test_interrupt_inside_a_library_that_we_call_is_found(
    library: str, code: str, *, is_interrupt: bool
) -> None:
    """Sent there, or replaced there by an error of a cleanup; the user's own code may replace."""
    found = interrupts.interrupt_of(run_in(library, code))
    assert isinstance(found, LimitError) == is_interrupt
