"""Checkpoints saved in a thread: isolated from training, with failures reported later."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runwire
from runwire.checkpoints import saver
from runwire.errors import CheckpointError
from runwire.run import Run
from support.checkpoints import local_parts, save_threads
from support.torch_here import torch

Start = Callable[..., Run]
MIB = 1024**2


def large(mib: int = 64) -> torch.Tensor:
    return torch.arange(mib * MIB // 4, dtype=torch.float32)


def test_asynchronous_save_keeps_the_state_of_its_call(start: Start) -> None:
    """Changes after the call do not reach the checkpoint."""
    run, state = start(), large()
    saved = run.save_checkpoint(1, model={"w": state}, asynchronous=True)
    state.zero_()
    assert saved.wait()
    assert torch.equal(run.load_checkpoint(1).state["model"]["w"], large())


def test_saves_use_one_thread_at_a_time_and_leave_none(start: Start) -> None:
    """At most one writer thread lives, and none after a synchronous save or `finish`."""
    run = start()
    assert save_threads() == []
    for step in range(4):
        run.save_checkpoint(step, model={"w": large(16)}, asynchronous=True)
        assert len(save_threads()) <= 1
    run.save_checkpoint(9, model={"w": large(1)})  # waits, in the call
    assert save_threads() == []
    saved = run.save_checkpoint(10, model={"w": large(16)}, asynchronous=True)
    run.finish()
    assert save_threads() == []
    assert saved.path is not None
    assert (saved.path / "manifest.json").exists()


def test_load_waits_for_a_save_in_progress(start: Start) -> None:
    """The checkpoint that a thread is still writing is found by `load_checkpoint`."""
    run = start()
    run.save_checkpoint(1, model={"w": large()}, asynchronous=True)
    assert run.load_checkpoint("latest").step == 1


def in_the_way(root: Path) -> Path:
    """A file where the folder of checkpoints would be."""
    root.mkdir(parents=True)
    (root / "checkpoints").write_text("")
    return root / "checkpoints"


def test_failed_asynchronous_save_is_reported_at_the_next_call(
    start: Start, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`wait` returns false, and the next call logs and counts the failure."""
    obstacle = in_the_way(root)
    run = start(settings={"strict": False})
    saved = run.save_checkpoint(1, model={"w": large(1)}, asynchronous=True)
    assert not saved.wait()
    assert saved.error
    assert "asynchronous save_checkpoint failed" not in caplog.text
    obstacle.unlink()
    assert run.save_checkpoint(2, model={"w": large(1)}, asynchronous=True).wait()
    assert "asynchronous save_checkpoint failed" in caplog.text
    run.finish()
    assert run.guard.counts == {"asynchronous save_checkpoint": 1}


def test_finish_reports_the_failure_of_the_last_save(
    start: Start, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure that no later call could report is logged by `finish`."""
    in_the_way(root)
    run = start(settings={"strict": False})
    run.save_checkpoint(1, model={"w": large(1)}, asynchronous=True)
    run.finish()
    assert "asynchronous save_checkpoint failed" in caplog.text


@pytest.mark.swallows
def test_finish_ends_the_run_while_a_save_hangs(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what still runs; once the disk answers the checkpoint is there and can be loaded."""
    disk_answers, write = threading.Event(), saver.write_state

    def hang(*args: Any, **options: Any) -> Any:
        disk_answers.wait()
        return write(*args, **options)

    monkeypatch.setattr(saver, "write_state", hang)
    monkeypatch.setattr(saver, "FINISH_WAIT_S", 0.0)
    run = start(settings={"strict": False})
    saved = run.save_checkpoint(3, model=torch.nn.Linear(2, 2), asynchronous=True)
    run.finish()
    assert "the upload of the checkpoint of step 3 is lost" in caplog.text
    assert not saved.wait(0)
    disk_answers.set()
    assert saved.wait()
    for thread in save_threads():
        thread.join()
    (part,) = local_parts(root)
    assert part.manifest.checkpoint.step == 3


@pytest.mark.parametrize("timeout", [float("nan"), "1", 10**9])
def test_wait_for_a_save_refuses_what_is_no_time(start: Start, timeout: Any) -> None:
    """It would wait for ever; a moment that has passed is no mistake."""
    saved = start().save_checkpoint(1, extra={"a": 1})
    with pytest.raises(CheckpointError, match="timeout"):
        saved.wait(timeout)
    assert saved.wait(-0.5)


def test_strict_run_raises_an_asynchronous_failure_at_the_next_call(
    start: Start, root: Path
) -> None:
    """With strict=True the next call raises the failure, and the call after it works."""
    obstacle = in_the_way(root)
    run = start()
    run.save_checkpoint(1, model={"w": large(1)}, asynchronous=True).wait()
    with pytest.raises(runwire.CheckpointError, match="could not be written below"):
        run.save_checkpoint(2, model={"w": large(1)})
    obstacle.unlink()
    assert run.save_checkpoint(3, model={"w": large(1)}).wait()


def test_checkpoint_events_record_how_long_training_was_blocked(start: Start, root: Path) -> None:
    """A synchronous save blocks for its whole duration, an asynchronous one for less."""
    from runwire_schemas.events import CheckpointEvent
    from support.artifacts import events

    run = start()
    now = run.save_checkpoint(1, model={"w": large(8)})
    later = run.save_checkpoint(2, model={"w": large(8)}, asynchronous=True)
    run.finish()
    said = {e.artifact: e for e in events(root) if isinstance(e, CheckpointEvent)}
    assert said[now.artifact].blocked_s == said[now.artifact].duration_s > 0
    assert 0 < said[later.artifact].blocked_s <= said[later.artifact].duration_s
    assert {e.raw_bytes for e in said.values()} == {e.bytes for e in said.values()}
    assert said[now.artifact].uri.startswith("file:///")


def test_signal_handler_may_save_during_a_save(start: Start, root: Path, seed: int) -> None:
    """Trainers save at SIGTERM, and the signal may arrive during a save: both are kept."""
    run, steps, chance = start(), iter(range(100, 200)), random.Random(seed)

    def save(*_: object) -> None:
        run.save_checkpoint(next(steps), model={"w": large(1)})

    before = signal.signal(signal.SIGALRM, save)
    try:
        for step in range(6):
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.001, 0.05))
            run.save_checkpoint(step, model={"w": large(16)}, asynchronous=step % 2 == 1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    run.finish()
    saved = [part.manifest.checkpoint.step for part in local_parts(root)]
    assert saved == [*range(6), *range(100, next(steps))]
    assert len(saved) > 6


def test_asynchronous_save_runs_in_the_call_when_no_thread_starts(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit of threads, or while the interpreter ends, the call itself saves."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    run = start()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert run.save_checkpoint(1, model={"w": large(1)}, asynchronous=True).path is not None
    assert run.load_checkpoint().step == 1


def test_asynchronous_save_refuses_bad_arguments_in_the_call(start: Start) -> None:
    """An argument that cannot be saved raises at once, not at the next call."""
    with pytest.raises(runwire.CheckpointError, match="extra is a builtins"):
        start().save_checkpoint(1, extra=object(), asynchronous=True)
