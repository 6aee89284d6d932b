"""A process without file descriptors: that is said, and no checkpoint counts as damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.checkpoints import local_parts
from support.torch_here import torch

assert torch
TRAINER = Path(__file__).parent / "trainers" / "descriptors.py"


@pytest.mark.parametrize("agent", ["none"])
def test_exhausted_descriptors_are_named_and_nothing_else_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: str
) -> None:
    """Neither the disk, nor the folder, nor a checkpoint is at fault, and an older one is not
    loaded instead."""
    monkeypatch.setenv("RUNWIRE_AGENT", agent)
    done = subprocess.run(
        [sys.executable, TRAINER, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in done.stdout.splitlines()]
    advice = "No file descriptor is left: close files"
    saved = 1
    for number, (free, result, route, loaded) in enumerate(lines):
        if result.isdigit():
            saved = int(result)
        else:
            assert advice in result, (free, result)
        assert loaded == str(saved) or advice in loaded, (free, loaded)
        assert route in ("refused", "direct"), (free, route)
        assert (f"'free-{number}' is lost" in done.stderr) == (route == "refused")
    assert advice in lines[0][1]
    assert lines[-1][1].isdigit(), done.stdout
    for blamed in ("disk of", "damaged", "Remove its folder", "local writable folder"):
        assert blamed not in done.stderr + done.stdout, done.stderr
    assert local_parts(tmp_path / "data")[-1].manifest.checkpoint.step == 99
