"""Models wrapped by torch.compile or data parallelism: their keys match those without a wrapper."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runwire.checkpoints.fitting import fit_keys
from runwire.run import Run
from support.torch_here import torch

Start = Callable[..., Run]


class Net(torch.nn.Module):
    """A module of its own is called `module`, as a wrapper calls what it wraps."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        self.module = torch.nn.Linear(2, 1)
        self.scale = torch.nn.Parameter(torch.full((1,), value))
        torch.nn.init.constant_(self.encoder[0].weight, value)
        torch.nn.init.constant_(self.module.weight, value)

    def get_extra_state(self) -> Any:
        return {"version": 2}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 2}


class Wrapper(torch.nn.Module):
    """As DistributedDataParallel, which needs a process group."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module


def compiled_part(net: Net) -> Net:
    net.encoder = torch.compile(net.encoder)
    return net


def compiled_inside(net: Net) -> Net:
    net.encoder[0] = torch.compile(net.encoder[0])
    return net


def wrapped_part(net: Net) -> Net:
    net.encoder = Wrapper(net.encoder)
    return net


FORMS: list[Callable[[Net], Any]] = [lambda net: net, compiled_part, compiled_inside, wrapped_part]


@pytest.mark.parametrize("saved", FORMS)
@pytest.mark.parametrize("loaded", FORMS)
def test_state_of_a_wrapped_part_loads_into_any_other_form(
    start: Start, saved: Callable[[Net], Any], loaded: Callable[[Net], Any]
) -> None:
    """Compiled for training and plain for evaluation, or the other way round: the same weights."""
    run, target = start(), loaded(Net(2.0))
    run.save_checkpoint(1, model=saved(Net(1.0)))
    found = run.load_checkpoint(model=target)
    assert (found.missing_keys, found.unexpected_keys) == ((), ())
    for name, value in target.named_parameters():
        if name.endswith("0.weight") or name in ("scale", "module.weight"):
            assert set(value.flatten().tolist()) == {1.0}, name


def test_foreign_state_of_a_data_parallel_model_loads_plain(start: Start, tmp_path: Path) -> None:
    """Files of other tools often have `module.` before every key."""
    run, target = start(), Net(2.0)
    state = Wrapper(Net(1.0)).state_dict()
    assert all(key.startswith("module.") for key in state)
    torch.save({"model": state}, tmp_path / "theirs.pt")
    run.log_checkpoint(tmp_path / "theirs.pt", 1)
    run.load_checkpoint(model=target)
    assert target.scale.tolist() == [1.0]


def test_versions_of_parts_follow_their_new_paths() -> None:
    """BatchNorm reads its version: without it, its count of batches would be reset."""
    state = compiled_part(Net(1.0)).state_dict()
    fitted = fit_keys(Net(2.0), state)
    assert isinstance(fitted, OrderedDict)
    assert fitted._metadata["encoder.1"] == {"version": 2}  # noqa: SLF001 - torch's own


def test_keys_that_differ_otherwise_are_left_to_torch(start: Start) -> None:
    """Another architecture is torch's own error, with the keys as they were saved."""
    run = start()
    run.save_checkpoint(1, model=compiled_part(Net(1.0)))
    with pytest.raises(RuntimeError, match=r"Unexpected key.*encoder._orig_mod.0.weight"):
        run.load_checkpoint(model=torch.nn.Linear(2, 2))


def test_fit_leaves_a_state_alone_where_two_keys_would_become_one() -> None:
    """Whose value is meant cannot be told."""
    state = {"module.weight": torch.ones(1), "_orig_mod.weight": torch.zeros(1)}
    assert fit_keys(torch.nn.Linear(1, 1), state) is state


def test_load_without_strict_names_the_keys_that_did_not_match(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A head that was not saved and a part that is gone are said, and are in the result."""
    run = start()
    run.save_checkpoint(1, model={"g": torch.nn.Linear(2, 2), "d": torch.nn.Linear(2, 2)})
    target = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 1)})
    found = run.load_checkpoint(model={"g": target, "d": torch.nn.Linear(2, 2)}, strict=False)
    assert found.missing_keys == ("['g'].head.weight", "['g'].head.bias")
    assert found.unexpected_keys == ("['g'].weight", "['g'].bias")
    says = "has no values for ['g'].head.weight, ['g'].head.bias, which stay as they are, and has "
    assert f"checkpoint 1 {says}['g'].weight, ['g'].bias, which the model does not" in caplog.text
