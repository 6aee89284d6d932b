"""Checkpoint files written by other tools: loaded as they are, without our meanings."""

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


def test_foreign_key_runwire_is_no_format_version(start: Start, theirs: Path) -> None:
    """A foreign entry named "runwire" is not taken for our format version."""
    run, model = start(), torch.nn.Linear(2, 2)
    run.log_checkpoint(theirs, 3)
    assert run.load_checkpoint(model=model).step == 3
    weights = torch.load(theirs, weights_only=True)["model"]["weight"]
    assert torch.equal(model.weight, weights)


def test_foreign_compressed_checkpoint_is_loaded(
    start: Start, theirs: Path, tmp_path: Path
) -> None:
    """A foreign file that is compressed with zstd is loaded like one of ours."""
    packed = tmp_path / "sub" / "state.pt.zst"
    packed.parent.mkdir()
    torch.save({"model": {"weight": torch.zeros(100, 1000), "bias": torch.zeros(100)}}, theirs)
    compress_file(theirs, packed)
    run, model = start(), torch.nn.Linear(1000, 100)
    run.log_checkpoint(packed, 3)
    run.load_checkpoint(model=model)
    assert not model.weight.any()


def test_missing_state_is_named_for_foreign_keys_of_any_type(start: Start, theirs: Path) -> None:
    """Keys of any type are listed in the sentence about the missing state."""
    torch.save({1: 2, "weights": 3, (4,): 5}, theirs)
    run = start()
    run.log_checkpoint(theirs, 3)
    with pytest.raises(runwire.CheckpointError, match=r"no state of model \(it has: \(4,\), 1, w"):
        run.load_checkpoint(model=torch.nn.Linear(2, 2))
