"""Guard: after init nothing raises, unless strict."""

import logging

import pytest

from runwire.guard import KINDS_MAX, Guard, guarded


class Thing:
    def __init__(self, *, strict: bool = False) -> None:
        self.guard = Guard(strict=strict)

    @guarded("work", default=list)
    def work(self, exc: BaseException | None = None) -> list[int]:
        """Docs stay."""
        if exc is not None:
            raise exc
        return [1]


def test_failure_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """One line per kind, however often it happens."""
    thing = Thing()
    with caplog.at_level(logging.WARNING, logger="runwire"):
        assert [thing.work(OSError("disk")) for _ in range(3)] == [[], [], []]
    assert thing.guard.counts == {"work": 3}
    assert len(caplog.records) == 1
    assert "OSError: disk" in caplog.text
    assert "RUNWIRE_STRICT=1" in caplog.text


def test_strict_guard_raises_the_original_error() -> None:
    """The very exception of the call is raised."""
    error = OSError("disk")
    with pytest.raises(OSError, match="disk") as caught:
        Thing(strict=True).work(error)
    assert caught.value is error


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(3)])
def test_keyboard_interrupt_and_exit_pass_the_guard(exc: BaseException) -> None:
    """Leaving the program is not a failure of the call."""
    with pytest.raises(type(exc)):
        Thing().work(exc)


def test_guarded_method_returns_its_value_and_docs() -> None:
    """A call that succeeds is not changed."""
    assert Thing().work() == [1]
    assert Thing.work.__doc__ == "Docs stay."


def test_kinds_beyond_the_limit_share_one_counter() -> None:
    """Kinds that are made from data do not grow memory."""
    guard = Guard()
    logging.getLogger("runwire").disabled = True
    try:
        for i in range(KINDS_MAX * 2):
            guard.report(f"kind-{i}", OSError())
    finally:
        logging.getLogger("runwire").disabled = False
    assert len(guard.counts) == KINDS_MAX + 1
    assert guard.counts["other"] == KINDS_MAX


def test_exception_without_a_usable_message_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error whose __str__ fails is logged by its type."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    guard = Guard()
    with guard.catching("mute"):
        raise MuteError
    assert "MuteError" in caplog.text
