"""Values that could not be loaded again: refused with their place by a strict run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import runwire
from runwire.run import Run
from support.torch_here import torch

Start = Callable[..., Run]


def ring() -> list[Any]:
    found: list[Any] = [1]
    found.append({"back": found})
    return found


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("what", "place", "why"),
    [
        (np.longdouble(1) / 3, "extra['a'][0]", "is a numpy.longdouble"),
        (np.ones(2, dtype=np.longdouble), "extra['a'][0]", "is an array of float128"),
        (10**800, "extra['a'][0]", "is a number of 2658 bits"),
        (-(2**2039) - 1, "extra['a'][0]", "is a number of 2040 bits"),
        (ring(), "extra['a'][0][1]['back']", "contains itself"),
        (deep(200), "extra['a'][0][0][0]", "is inside more than 100 containers"),
        ({frozenset([1]): 2}, "extra['a'][0][frozenset({1})]", "is a key, or in a set"),
        ({(1, frozenset([2])): 2}, "extra['a'][0][(1, frozenset({2}))]", "is a key, or in a set"),
        ({frozenset([1])}, "extra['a'][0][0]", "is a key, or in a set"),
        ({1: [object()]}, "extra['a'][0][1][0]", "is a builtins.object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_save_refuses_unloadable_values_and_names_their_place(
    start: Start, what: Any, place: str, why: str
) -> None:
    """The sentence names the path to the value and the reason; nothing is saved."""
    run, told = start(), f"^{re.escape(place)}.* ?{re.escape(why)}"
    for asynchronous in (False, True):
        with pytest.raises(runwire.CheckpointError, match=told):
            run.save_checkpoint(1, extra={"a": [what]}, asynchronous=asynchronous)
    assert run.load_checkpoint() is None


def test_save_refuses_a_model_collection_that_contains_itself(start: Start) -> None:
    """The sentence names the key under which the collection contains itself."""
    run, models = start(), {"g": torch.nn.Linear(2, 2)}
    models["self"] = models
    with pytest.raises(
        runwire.CheckpointError, match=r"model\['self'\] is a container that contains itself"
    ):
        run.save_checkpoint(1, model=models)


def test_values_at_the_limits_are_saved_and_loaded(start: Start) -> None:
    """One list used twice is no ring, and big-endian arrays are numbers."""
    run, twice = start(), [1, 2]
    extra = {
        "twice": [twice, twice],
        "large": 2**2039 - 1,
        "deep": deep(98),
        "set": {1, (2, "x")},
    }
    arrays = [np.arange(3, dtype=">f4"), np.array(7, dtype=">i8"), np.arange(4)[::-1]]
    run.save_checkpoint(1, extra={**extra, "arrays": arrays})
    found = run.load_checkpoint().extra
    assert [each.tolist() for each in found.pop("arrays")] == [[0, 1, 2], 7, [3, 2, 1, 0]]
    assert found == extra
