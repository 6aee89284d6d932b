"""Tensors among the values of `log`, read where the last calls with these names had some."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.careful import functions_of, keep_both_ways
from support.spools import metric_log, new_writer
from support.torch_here import torch

CALLS = 20


class Marked(torch.Tensor):
    """A class of the user's own."""


POOL: list[Callable[[], Any]] = [
    lambda: 1.5,
    lambda: "text",
    lambda: torch.tensor(2.5),
    lambda: torch.tensor(float("nan"), dtype=torch.bfloat16),
    lambda: torch.tensor(2**60 + 1),
    lambda: torch.tensor(True),
    lambda: torch.tensor(1j),
    lambda: torch.tensor([3.0]),
    lambda: torch.tensor([1.0, 2.0]),
    lambda: torch.zeros(0),
    lambda: torch.tensor(4.0, device="meta"),
    lambda: torch.tensor(5.0, requires_grad=True),
    lambda: torch.nn.Parameter(torch.tensor(6.0)),
    lambda: torch.tensor(7.0).as_subclass(Marked),
]


def test_calls_with_tensors_keep_what_careful_calls_keep(tmp_path: Path, seed: int) -> None:
    """Values, counts of dropped ones and last values are those of the sorter, in any order."""
    rng = random.Random(seed)
    calls = []
    for _ in range(CALLS):
        kinds = [rng.sample(POOL, 2) for _ in range(3)]
        calls += [
            {f"m{index}": rng.choice(pair)() for index, pair in enumerate(kinds)} for _ in range(6)
        ]
    plain, careful = keep_both_ways(tmp_path, calls)
    assert plain == careful


def test_tensor_where_the_call_before_had_one_takes_the_short_way(tmp_path: Path) -> None:
    """A loss as tensor among floats costs a few functions, and is stored as the float it holds."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    log.log({"warm": 1.0})
    floats = {f"m{index}": float(index) for index in range(9)}
    first = functions_of(log, {"loss": torch.tensor(0.5), **floats})
    assert functions_of(log, {"loss": torch.tensor(0.25), **floats}) <= 5 < first
    assert log.last()["loss"] == 0.25
    writer.close()
