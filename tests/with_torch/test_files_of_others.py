"""Files that others wrote are theirs, whatever they are called and whatever is in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import runwire
from runwire.checkpoints.state_file import compress_file
from runwire.run import Run
from support.torch_here import torch

Start = Callable[..., Run]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Weights alone, under the name that ours have, with a word of ours in it."""
    file = tmp_path / "state.pt"
    torch.save({"model": torch.nn.Linear(2, 2).state_dict(), "runwire": 99}, file)
    return file


def test_their_words_are_not_ours(start: Start, theirs: Path) -> None:
    """What they call "runwire" says nothing about a version of ours."""
    run, model = start(), torch.nn.Linear(2, 2)
    run.log_checkpoint(theirs, 3)
    assert run.load_checkpoint(model=model).step == 3
    weights = torch.load(theirs, weights_only=True)["model"]["weight"]
    assert torch.equal(model.weight, weights)


def test_what_they_compressed_is_read_too(start: Start, theirs: Path, tmp_path: Path) -> None:
    packed = tmp_path / "sub" / "state.pt.zst"
    packed.parent.mkdir()
    torch.save({"model": {"weight": torch.zeros(100, 1000), "bias": torch.zeros(100)}}, theirs)
    compress_file(theirs, packed)
    run, model = start(), torch.nn.Linear(1000, 100)
    run.log_checkpoint(packed, 3)
    run.load_checkpoint(model=model)
    assert not model.weight.any()


def test_their_keys_may_be_anything(start: Start, theirs: Path) -> None:
    """What is missing is told all the same."""
    torch.save({1: 2, "weights": 3, (4,): 5}, theirs)
    run = start()
    run.log_checkpoint(theirs, 3)
    with pytest.raises(runwire.CheckpointError, match=r"no state of model \(it has: \(4,\), 1, w"):
        run.load_checkpoint(model=torch.nn.Linear(2, 2))
