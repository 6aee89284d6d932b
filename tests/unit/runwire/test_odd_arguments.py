"""Public calls with odd arguments: nothing raises, the rest of each call is kept."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import runwire
from runwire.arguments import arguments_of
from support.odd_calls import OBJECT_CALLS, WITH_TORCH, Trial, functions, good_arguments

# Drawn for each argument; `make faults` tries all.
VALUES = 3


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
