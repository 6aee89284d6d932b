"""After init nothing raises, unless strict."""

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


def test_a_failure_is_told_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """One line per kind, however often it happens."""
    thing = Thing()
    with caplog.at_level(logging.WARNING, logger="runwire"):
        assert [thing.work(OSError("disk")) for _ in range(3)] == [[], [], []]
    assert thing.guard.counts == {"work": 3}
    assert len(caplog.records) == 1
    assert "OSError: disk" in caplog.text
    assert "RUNWIRE_STRICT=1" in caplog.text


def test_strict_raises_the_original() -> None:
    error = OSError("disk")
    with pytest.raises(OSError, match="disk") as caught:
        Thing(strict=True).work(error)
    assert caught.value is error


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(3)])
def test_leaving_the_program_is_no_failure(exc: BaseException) -> None:
    with pytest.raises(type(exc)):
        Thing().work(exc)


def test_success_passes_through() -> None:
    assert Thing().work() == [1]
    assert Thing.work.__doc__ == "Docs stay."


def test_kinds_made_from_data_do_not_grow_memory() -> None:
    guard = Guard()
    logging.getLogger("runwire").disabled = True
    try:
        for i in range(KINDS_MAX * 2):
            guard.report(f"kind-{i}", OSError())
    finally:
        logging.getLogger("runwire").disabled = False
    assert len(guard.counts) == KINDS_MAX + 1
    assert guard.counts["other"] == KINDS_MAX


def test_an_exception_without_a_usable_message_is_told_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    guard = Guard()
    with guard.catching("mute"):
        raise MuteError
    assert "MuteError" in caplog.text
