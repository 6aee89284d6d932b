"""Trainings that are killed and resumed, compared with one that never was."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from runwire_schemas.events import MetricBatch, RunEvent
from support.artifacts import events
from support.torch_here import torch

assert torch
TRAINER = Path(__file__).parent / "trainers" / "resuming.py"
STEPS, EVERY = 60, 10
WAIT_S = 120


def trainer(root: Path, losses: Path) -> subprocess.Popen[bytes]:
    words = [str(root), str(losses), str(STEPS), str(EVERY)]
    return subprocess.Popen([sys.executable, str(TRAINER), *words])


def attempts_in(losses: Path) -> list[list[tuple[int, str]]]:
    """The (step, loss) pairs that each attempt wrote."""
    attempts: list[list[tuple[int, str]]] = []
    for line in losses.read_text().splitlines(keepends=True):
        if line.startswith("#"):
            attempts.append([])
        elif line.endswith("\n"):
            step, loss = line.split()
            attempts[-1].append((int(step), loss))
    return attempts


def steps_in(losses: Path) -> int:
    return losses.read_text().count("\n") if losses.exists() else 0


def test_resumed_training_has_the_losses_of_an_uninterrupted_one(tmp_path: Path, seed: int) -> None:
    """Every loss of both attempts equals, digit by digit, that of the uninterrupted training."""
    assert trainer(tmp_path / "whole", tmp_path / "whole.txt").wait(WAIT_S) == 0
    (whole,) = attempts_in(tmp_path / "whole.txt")
    assert len(whole) == STEPS
    losses = tmp_path / "killed.txt"
    # The second save waits for the first, which is asynchronous: only then it is surely there.
    kill_after = random.Random(seed).randrange(2 * EVERY + 2, STEPS)
    with trainer(tmp_path / "killed", losses) as victim:
        give_up = time.monotonic() + WAIT_S
        while steps_in(losses) < kill_after and victim.poll() is None:
            assert time.monotonic() < give_up
        victim.send_signal(signal.SIGKILL)
    assert trainer(tmp_path / "killed", losses).wait(WAIT_S) == 0
    first, second = attempts_in(losses)
    resumed_at = second[0][0]
    assert resumed_at % EVERY == 0
    # At most one save was under way, and at most the step that was being written is missing.
    assert first[-1][0] - resumed_at < 2 * EVERY
    assert first == whole[: len(first)]
    assert second == whole[resumed_at:]
    check_events(tmp_path / "killed", resumed_at)


def check_events(root: Path, resumed_at: int) -> None:
    """Both attempts are there; the second recorded its resume step and continues there."""
    found = events(root)
    said = [e for e in found if isinstance(e, RunEvent)]
    resumed = {(e.attempt, e.resumed_from_step) for e in said if e.resumed_from_step is not None}
    ((attempt, step),) = resumed
    assert step == resumed_at - 1
    assert len({e.attempt for e in said}) == 2
    metrics = [e for e in found if isinstance(e, MetricBatch) and e.attempt == attempt]
    assert min(step for e in metrics for step in e.call_step) == resumed_at
