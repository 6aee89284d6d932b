"""Missing states and foreign files: a sentence, and nothing half restored."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runwire
from runwire.run import Run
from support.torch_here import torch

Start = Callable[..., Run]


def optimizer() -> Any:
    return torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("saved", "wanted", "told"),
    [
        (lambda: [optimizer()], lambda: [optimizer()] * 2, "[1] (optimizer was saved as a list of"),
        (optimizer, lambda: [optimizer()], "[0] (optimizer was saved with 'state', 'param_groups'"),
        (lambda: [optimizer()], lambda: {"a": optimizer()}, "['a'] (optimizer was saved as a list"),
        (lambda: {"a": optimizer()}, lambda: {"b": optimizer()}, "['b'] (optimizer was saved with"),
    ],
)
def test_load_restores_nothing_when_a_state_is_missing(
    start: Start, saved: Callable[[], Any], wanted: Callable[[], Any], told: str
) -> None:
    """A missing or differently collected optimizer is named, and the model is not touched."""
    run, model = start(), torch.nn.Linear(2, 2)
    run.save_checkpoint(1, model=torch.nn.Linear(2, 2), optimizer=saved())
    before = model.weight.clone()
    with pytest.raises(runwire.CheckpointError) as raised:
        run.load_checkpoint(1, model=model, optimizer=wanted())
    assert f"checkpoint 1 has no state of optimizer{told}" in str(raised.value)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"runwire": 1}, "it has no step and no metrics and no extra"),
        ({"runwire": 1, "step": 1, "extra": None}, "it has no metrics"),
        ({"model": {}}, "was not written by save_checkpoint"),
        ([1], "was not written by save_checkpoint"),
    ],
)
def test_read_checkpoint_refuses_files_that_are_not_ours(
    tmp_path: Path, content: Any, told: str
) -> None:
    """The sentence names the missing fields, or that save_checkpoint did not write the file."""
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(runwire.CheckpointError, match=told):
        runwire.read_checkpoint(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_damaged_lone_file_raises_checkpoint_error_only(tmp_path: Path, seed: int) -> None:
    """Without a manifest no digest is known, and unpickling fails in many ways: one class covers
    all."""
    chance, file = random.Random(seed), tmp_path / "state.pt"
    content = {"runwire": 1, "step": 1, "metrics": {}, "extra": {"x": [1, 2.5, "s"]}}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        file.write_bytes(damaged)
        # No error at all where a number or a text has become another.
        with contextlib.suppress(runwire.CheckpointError):
            runwire.read_checkpoint(file)
