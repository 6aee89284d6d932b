"""Public calls with odd arguments: nothing raises, the rest of each call is kept."""

from __future__ import annotations

import enum
import inspect
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runwire
from runwire.arguments import arguments_of
from support.effort import IS_QUICK
from support.odd_calls import (
    OBJECT_CALLS,
    RAISING,
    STARTING,
    WITH_TORCH,
    Messages,
    Trial,
    functions,
    good_arguments,
)

# Drawn for each argument; `make faults` tries all.
VALUES = 1 if IS_QUICK else 3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own as working folder; a relative path among the values lands there."""
    monkeypatch.setenv("RUNWIRE_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("RUNWIRE_CAPTURE_GIT", "0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", sorted(functions()))
def test_every_public_function_declares_its_arguments(name: str) -> None:
    """A new public call without a declaration would accept anything and lose its record."""
    table = arguments_of(functions()[name])
    assert table is not None
    assert name in good_arguments.__code__.co_consts or name in inspect.getsource(good_arguments)


def test_module_functions_take_what_their_methods_take() -> None:
    """`runwire.f` passes its arguments on by the names that `Run.f` declares."""
    for name in set(runwire.__all__) & set(functions()):
        table = arguments_of(functions()[name])
        assert table is not None
        parameters = inspect.signature(getattr(runwire, name)).parameters.values()
        named = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        assert set(named) <= set(table.kinds), name


@pytest.mark.swallows
@pytest.mark.parametrize("name", sorted(set(functions()) - WITH_TORCH))
def test_odd_arguments_cost_a_sentence_and_nothing_else(folder: Path, name: str, seed: int) -> None:
    """Nothing raises, the rest of the call and the run's other records are there, it finishes."""
    assert Trial(name, folder, seed, VALUES).run() == []


@pytest.mark.swallows
@pytest.mark.parametrize("name", sorted(OBJECT_CALLS))
def test_odd_values_in_objects_of_a_run_never_raise(folder: Path, name: str, seed: int) -> None:
    """Config, summary, artifacts and histograms report as the calls do; other records are kept."""
    assert Trial(name, folder, seed, 2 * VALUES).run_objects() == []


@pytest.mark.swallows
@pytest.mark.parametrize("name", ["init", "log", "log_artifact", "set_tags", "finish"])
def test_odd_arguments_end_no_strict_run_badly(folder: Path, name: str, seed: int) -> None:
    """Strict, the call may raise; what was logged before and after is there, the run ends."""
    assert Trial(name, folder, seed, VALUES, strict=True).run() == []


@pytest.mark.swallows
@pytest.mark.parametrize("name", sorted(set(functions()) - WITH_TORCH - STARTING - RAISING))
def test_call_with_missing_or_unknown_arguments_never_raises(folder: Path, name: str) -> None:
    """By the module and by the run; the rest of a call that can be made is kept."""
    good = good_arguments(folder)[name]("kept-in-spite")
    rest = [good.pop("names")] if "names" in good else []
    with runwire.init("p") as run:
        for place in (runwire, run):
            call = getattr(place, name, None)
            if call is None or name == "finish":
                continue
            call()
            call(foo=1)
            call(*[None] * 20)
            call(*rest, **good, foo=1)
        run.log({"after": 1.0})
        assert run.summary["after"] == 1.0
    assert not run.is_active


@pytest.mark.swallows
def test_log_with_an_unknown_argument_records_the_others(folder: Path) -> None:
    """The sentence says how values are given; strict, the call raises."""
    with Messages() as messages, runwire.init("p") as run:
        for log in (runwire.log, run.log):
            log(loss=0.5)
            log({"a": 1.0}, 3, True, loss=0.5)
        assert dict(run.summary) == {"a": 1.0}
        assert run.step == 4
        for number in range(10):
            run.log({"a": 1.0}, number, number)
    assert sum("only data and step" in line for line in messages.lines) == 1
    assert any("log({name: value})" in line for line in messages.lines)
    with runwire.init("p", settings={"strict": True}) as run:
        with pytest.raises(TypeError, match="no argument 'loss'"):
            run.log(loss=0.5)
        with pytest.raises(TypeError, match="only data and step"):
            run.log({"a": 1.0}, 3, True)


def test_text_enum_is_named_alike_in_log_config_and_summary(folder: Path) -> None:
    """A key of any class of str is named by its text, also in the first call with it."""

    class Key(str, enum.Enum):  # noqa: UP042 - its str() is "Key.LOSS", unlike that of a StrEnum
        LOSS = "loss"

    with runwire.init("p") as run:
        for value in (1.0, 2.0):
            run.log({Key.LOSS: value, np.str_("acc"): value})
        assert dict(run.summary) == {"loss": 2.0, "acc": 2.0}
        run.config.update({Key.LOSS: 3})
        run.summary[Key.LOSS] = 4
        assert (run.config[Key.LOSS], Key.LOSS in run.config) == (3, True)
        assert (dict(run.config), run.summary["loss"]) == ({"loss": 3}, 4)


class Interrupted:
    """An argument during whose conversion a signal arrives."""

    def __str__(self) -> str:
        signal.raise_signal(signal.SIGUSR1)
        return "never"

    __float__ = __int__ = __fspath__ = __iter__ = __str__
    __repr__ = object.__repr__

    @property
    def shape(self) -> object:
        return str(self)


@pytest.mark.parametrize(
    "call",
    [
        lambda run, odd: run.set_tag("k", odd),
        lambda run, odd: run.set_tags({"k": odd}),
        lambda run, odd: run.log_metric("k", 1.0, step=odd),
        lambda run, odd: run.log({"k": odd}),
        lambda run, odd: run.log({odd: 1.0}),
        lambda run, odd: run.config.update({odd: 1}),
        lambda run, odd: run.summary.update(k=odd),
        lambda run, odd: run.log_artifact(b"x", "n", aliases=odd),
        lambda run, odd: run.log_histogram("h", odd),
    ],
)
def test_exception_of_a_signal_handler_in_a_conversion_reaches_the_user(
    folder: Path, call: Callable[[runwire.Run, Any], None]
) -> None:
    """A time limit is no odd argument: it passes, and the run's other records are kept."""

    def handler(_signum: int, _frame: object) -> None:
        raise TimeoutError("time is up")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with runwire.init("p") as run:
            with pytest.raises(TimeoutError, match="time is up"):
                call(run, Interrupted())
            run.log({"after": 1.0})
            assert run.summary["after"] == 1.0
    finally:
        signal.signal(signal.SIGUSR1, before)
