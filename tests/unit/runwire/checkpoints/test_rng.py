"""Random state: numpy's global generator is saved and restored, whichever it is."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from runwire.checkpoints.random_states import capture_rng, restore_rng

NAMES = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


@pytest.fixture(autouse=True)
def _global_generator(seed: int) -> Iterator[None]:
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.MT19937(seed))
    yield
    np.random.set_bit_generator(before)


def draws() -> list[float]:
    return [*np.random.rand(5).tolist(), np.random.randn(), float(np.random.randint(1 << 30))]


def plain(value: Any) -> bool:
    """Whether the loader that executes nothing builds it."""
    if isinstance(value, dict):
        return all(map(plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    return type(value) in (str, int, float)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("then", ["MT19937", "PCG64"])
def test_restore_sets_the_saved_generator_over_another(name: str, then: str, seed: int) -> None:
    """A restarted script has the default generator until it sets another."""
    np.random.set_bit_generator(getattr(np.random, name)(seed))
    np.random.randn()  # a cached second Gaussian is part of the state
    states, problems = capture_rng()
    assert problems == []
    assert plain(states["numpy"])
    expected = draws()
    np.random.set_bit_generator(getattr(np.random, then)(seed + 1))
    assert restore_rng({"numpy": pickle.loads(pickle.dumps(states["numpy"]))}) == []
    assert draws() == expected


def test_capture_leaves_out_a_foreign_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state may be of any class, and one such makes the whole file unloadable."""
    state = {"bit_generator": "Xoshiro512", "state": object()}
    monkeypatch.setattr(np.random, "get_state", lambda **_: state)
    states, (problem,) = capture_rng()
    assert "numpy" not in states
    assert "Xoshiro512 is not one of numpy's own generators; put its state into extra" in problem


def test_restore_reports_a_generator_that_numpy_lacks() -> None:
    """The current state stays, and a sentence names the generator."""
    before = np.random.get_state()[1].tolist()
    (problem,) = restore_rng({"numpy": {"bit_generator": "PCG128", "state": {}}})
    assert "this numpy cannot use PCG128" in problem
    assert np.random.get_state()[1].tolist() == before
