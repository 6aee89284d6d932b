"""Wrong arguments and environments: they cost a report, never the checkpoint."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runwire.run import Run
from support.checkpoints import local_parts
from support.odd_calls import WITH_TORCH, Trial
from support.torch_here import torch

Start = Callable[..., Run]


def lenient(start: Start, **settings: object) -> Run:
    return start(settings={"strict": False, **settings})


@pytest.mark.parametrize("wrong", [3, "3", {"keep": 3}, {"keep_last": -1}, {1: 2}])
def test_wrong_retention_is_reported_and_deletes_nothing(
    start: Start, caplog: pytest.LogCaptureFixture, wrong: object
) -> None:
    """The checkpoint is saved, and even the rules of the settings are not applied."""
    run = lenient(start, checkpoint_keep_last=1)
    for step in range(3):
        saved = run.save_checkpoint(step, extra=step, retention=wrong)
        assert saved.path is not None
    assert run.guard.counts == {"retention of a checkpoint": 3}
    assert "write retention=runwire.Retention(keep_last=3)" in caplog.text
    assert [run.load_checkpoint(step).extra for step in range(3)] == [0, 1, 2]


def test_retention_may_be_a_mapping(start: Start, root: Path) -> None:
    """A dict with the names of the rules works like Retention."""
    run = start()
    for step in range(5):
        run.save_checkpoint(step, extra=step, retention={"keep_last": 2})
    assert len(local_parts(root)) == 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_checkpoint_is_saved_uncompressed_without_zstd(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asynchronous: bool,
) -> None:
    """The missing module is reported once with its pip command."""
    run = lenient(start, checkpoint_compress="zstd")
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    for step in (1, 2):
        saved = run.save_checkpoint(step, extra=step, asynchronous=asynchronous)
        assert saved.wait()
        assert [path.name for path in saved.path.glob("state*")] == ["state.pt"]
    assert run.load_checkpoint("latest").extra == 2
    assert run.guard.counts == {"compressing a checkpoint": 2}
    assert caplog.text.count("pip install 'runwire[zstd]'") == 1


def test_other_numpy_generator_is_saved_and_restored(start: Start, seed: int) -> None:
    """A bit generator other than the default one continues where it was."""
    run, before = start(), np.random.get_bit_generator()
    model = torch.nn.Linear(2, 2)
    try:
        np.random.set_bit_generator(np.random.PCG64(seed))
        run.save_checkpoint(1, model=model)
        expected = np.random.rand(3).tolist()
        np.random.set_bit_generator(before)
        run.load_checkpoint("latest", model=model, resume=True)
        assert np.random.rand(3).tolist() == expected
    finally:
        np.random.set_bit_generator(before)


def test_unknown_generator_is_reported_and_the_checkpoint_saved(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The report names the generator, and the checkpoint loads without it."""
    run = lenient(start)
    monkeypatch.setattr(np.random, "get_state", lambda **_: {"bit_generator": "Xoshiro512"})
    assert run.save_checkpoint(1, extra=1).path is not None
    assert "Xoshiro512" in caplog.text
    monkeypatch.undo()
    assert run.load_checkpoint("latest", resume=True).extra == 1


def test_strict_run_raises_for_wrong_retention_before_writing(start: Start) -> None:
    """With strict=True the call raises, and no checkpoint exists."""
    run = start()
    with pytest.raises(TypeError, match=r"retention=3: write retention=runwire\.Retention"):
        run.save_checkpoint(1, extra=1, retention=3)
    assert run.load_checkpoint() is None


def test_every_failed_save_is_logged_by_its_step(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five lost checkpoints are five lines, saved in the call or in a thread, and are counted."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    run = lenient(start)
    monkeypatch.setattr("runwire.checkpoints.saver.write_state", full)
    for step in range(5):
        assert run.save_checkpoint(step, extra=1, asynchronous=step > 2).wait() is False
    assert run.load_checkpoint() is None  # waits for the last one
    assert run.guard.counts == {"save_checkpoint": 3, "asynchronous save_checkpoint": 2}
    lost = [text for text in caplog.messages if "is lost: CheckpointError: the disk" in text]
    assert [text.partition("of step ")[2][0] for text in lost] == list("01234")


class OverdueError(OSError):
    """An OSError as TimeoutError is, which code that writes files takes for one of the disk."""


@pytest.mark.parametrize("asynchronous", [False, True])
def test_exception_of_a_signal_handler_reaches_the_user_from_a_save(
    start: Start, root: Path, asynchronous: bool
) -> None:
    """A time limit ends the training although a save was under way, and leaves nothing half."""

    def time_is_up(_signum: int, _frame: object) -> None:
        raise OverdueError("the job's hour is over")

    class Model:
        def state_dict(self) -> dict[str, object]:
            os.kill(os.getpid(), signal.SIGUSR1)
            return {}

    run = lenient(start)
    before = signal.signal(signal.SIGUSR1, time_is_up)
    try:
        with pytest.raises(OverdueError):
            run.save_checkpoint(1, model=Model(), asynchronous=asynchronous)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert run.guard.counts == {}
    assert local_parts(root) == []
    assert run.save_checkpoint(2, extra=2).wait()
    assert run.load_checkpoint("latest").extra == 2


@pytest.mark.swallows
@pytest.mark.parametrize("name", sorted(WITH_TORCH))
def test_odd_arguments_of_checkpoint_calls_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, seed: int
) -> None:
    """Nothing raises but what the caller asked for, and the run's records are kept."""
    monkeypatch.setenv("RUNWIRE_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("RUNWIRE_CAPTURE_GIT", "0")
    monkeypatch.chdir(tmp_path)
    assert Trial(name, tmp_path, seed, 3).run() == []
