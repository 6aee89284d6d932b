"""Values that only resemble plain ones, and states that one rank alone cannot have."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import runwire
from runwire.run import Run
from support.checkpoints import save_threads
from support.torch_here import torch

Start = Callable[..., Run]


class Phase(str, enum.Enum):  # noqa: UP042 - as written before Python 3.11
    WARM = "warm"


class Shouted(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()


def test_subclasses_of_str_load_as_plain_strings(start: Start) -> None:
    """Enum members and subclasses of str come back as the string that they equal."""
    run = start()
    run.save_checkpoint(1, extra={"phase": Phase.WARM, "word": Shouted("low"), Phase.WARM: 1})
    assert run.load_checkpoint().extra == {"phase": "warm", "word": "low", "warm": 1}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_conjugate_and_negative_views_are_saved_as_they_read(
    start: Start, asynchronous: bool
) -> None:
    """They have the address, shape and strides of their base, and still load with their
    own values."""
    run, plain = start(), torch.randn(4, dtype=torch.complex64)
    views = {"plain": plain, "conj": plain.conj(), "imag": plain.imag, "neg": plain.conj().imag}
    run.save_checkpoint(1, extra=views, asynchronous=asynchronous)
    found = run.load_checkpoint().extra
    for name, view in views.items():
        assert torch.equal(found[name].resolve_conj(), view.resolve_conj()), name


@pytest.mark.parametrize("metrics", [[("loss", 1.0)], 0.5, "loss"])
def test_wrong_metrics_are_reported_and_the_checkpoint_saved(start: Start, metrics: object) -> None:
    """Metrics that are no mapping are reported, and the checkpoint has none."""
    run = start(settings={"strict": False})
    assert run.save_checkpoint(1, extra=1, metrics=metrics).path is not None
    assert run.guard.counts == {"metrics of a checkpoint": 1}
    assert dict(run.load_checkpoint().metrics) == {}


class FullyShardedDataParallel(torch.nn.Module):
    """Named as torch's own, which needs an accelerator; its state_dict() gathers from all ranks."""

    def state_dict(self, *_: object, **__: object) -> dict[str, object]:
        raise AssertionError("waits for ever for the other ranks")


def test_full_save_refuses_a_sharded_module_without_asking_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking the module on rank 0 alone would hang the job until NCCL gives up."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    run = start()
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), FullyShardedDataParallel())
    with pytest.raises(runwire.CheckpointError, match=r"model is sharded .* kind='dcp'"):
        run.save_checkpoint(1, model=model)
    assert run.save_checkpoint(1, model={"gathered": torch.zeros(1)}).path is not None


def test_foreign_key_rng_is_not_used_for_our_generators(start: Start, tmp_path: Path) -> None:
    """A foreign entry "rng" is ignored, and the states of the file are loaded."""
    run, model = start(), torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    theirs = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**theirs, "rng": {"python": 1, "torch": "x"}}, tmp_path / "last.pt")
    run.log_checkpoint(tmp_path / "last.pt", 3)
    assert run.load_checkpoint(model=torch.nn.Linear(2, 2), optimizer=optimizer).step == 3
    assert run.step == 4


@pytest.mark.parametrize("which", [None, 1.5, "newest", object()])
def test_load_refuses_values_that_are_no_step(start: Start, which: object) -> None:
    """Only 'latest', 'best' or a step can be asked for, and the sentence says so."""
    run = start()
    run.save_checkpoint(1, extra=1)
    with pytest.raises(runwire.CheckpointError, match="'latest', 'best' or a step"):
        run.load_checkpoint(which)


def test_wait_includes_a_save_begun_by_a_signal_handler(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler may begin a save in the middle of a load's wait: that one is waited for too."""
    run = start()
    run.save_checkpoint(1, extra=1, asynchronous=True)
    join, later = threading.Thread.join, []

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        join(thread, timeout)
        if thread.name == "runwire-checkpoint" and not later:
            later.append(None)
            later[0] = run.save_checkpoint(2, extra=2, asynchronous=True)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    assert run.load_checkpoint("latest").extra == 2
    assert later[0].wait(0)
    assert save_threads() == []
