"""Guard: after init nothing raises, unless strict."""

import logging

import pytest

from runwire.conversion import ANY
from runwire.guard import KINDS_MAX, Guard, public_call


class Thing:
    def __init__(self, *, strict: bool = False) -> None:
        self.guard = Guard(strict=strict)

    @public_call(default=list, exc=ANY)
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


def test_every_loss_is_logged_by_its_name_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Five lost artifacts are five lines: the name of a lost one is the news."""

    class Keeper:
        def __init__(self) -> None:
            self.guard = Guard()

        @public_call(loses=("name", "path"), path=ANY, name=ANY)
        def keep(self, path: object, name: str | None = None) -> None:
            raise OSError("disk")

    class Nameless:
        @property
        def name(self) -> str:
            raise RuntimeError

    keeper = Keeper()
    keeper.keep("a.bin")
    keeper.keep("b.bin", "weights")
    keeper.keep(path="c.bin", name=None)
    keeper.keep(b"bytes")
    keeper.keep(Nameless())
    assert keeper.guard.counts == {"keep": 5}
    lost = [record.getMessage().partition(" is lost")[0] for record in caplog.records]
    names = ["'a.bin'", "'weights'", "'c.bin'", "b'bytes'", "<Nameless>"]
    assert lost == [f"runwire: keep failed, {name}" for name in names]


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


def test_failures_are_logged_once_per_name(caplog: pytest.LogCaptureFixture) -> None:
    """Two metrics that cannot be stored are two lines; a hundred failures of one are one."""
    guard = Guard()
    for n in range(100):
        guard.report("log: not_a_number", ValueError("x"), name=f"'m{n % 2}'")
    assert [r.getMessage().split(" failed")[0] for r in caplog.records] == [
        "runwire: log: not_a_number of 'm0'",
        "runwire: log: not_a_number of 'm1'",
    ]
    assert guard.counts == {"log: not_a_number": 100}


def test_every_lost_artifact_is_logged_by_name(caplog: pytest.LogCaptureFixture) -> None:
    """Five failed checkpoints are five lines, also of one name."""
    guard = Guard()
    for step in (1, 2, 3, 3):
        guard.report_loss("save_checkpoint", f"step {step}", OSError("full"))
    assert [r.getMessage().split(" is lost")[0] for r in caplog.records] == [
        f"runwire: save_checkpoint failed, step {step}" for step in (1, 2, 3, 3)
    ]


def test_log_handler_that_raises_does_not_reach_the_caller() -> None:
    """A handler of the user fails in `emit`; the call returns its default and is counted."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError(record)

    handler, thing = Broken(), Thing()
    logging.getLogger("runwire").addHandler(handler)
    try:
        assert thing.work(OSError("disk")) == []
    finally:
        logging.getLogger("runwire").removeHandler(handler)
    assert thing.guard.counts == {"work": 1}


def test_default_that_cannot_be_made_does_not_raise() -> None:
    """Where even the module of the result cannot be imported, the call returns None."""

    class Starved(Thing):
        @public_call(default=lambda: 1 / 0)
        def call(self) -> int:
            raise OSError("Too many open files")

    thing = Starved()
    assert thing.call() is None
    assert thing.guard.counts == {"call": 2}
