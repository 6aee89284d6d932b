"""Launches by torch itself: each is one run with its ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from support.torch_here import torch  # noqa: F401 - skips without it

TRAINER = Path(__file__).parent / "trainers" / "launched.py"


@pytest.mark.parametrize(
    ("launcher", "arguments", "launches"),
    [
        pytest.param([], ["meeting"], 2, id="mp.spawn twice"),
        pytest.param(["-m", "torch.distributed.run", "--nproc-per-node=2"], [], 1, id="torchrun"),
    ],
)
def test_each_launch_is_one_run_with_both_ranks(
    tmp_path: Path, launcher: list[str], arguments: list[str], launches: int
) -> None:
    """Two launches of one parent are two runs, also where no address is in the environment."""
    environ = os.environ | {"RUNWIRE_DIR": str(tmp_path / "data"), "RUNWIRE_CAPTURE_GIT": "0"}
    command = [sys.executable, *launcher, str(TRAINER), *(str(tmp_path / a) for a in arguments)]
    done = subprocess.run(
        command, env=environ, check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    ranks = Counter(tuple(line.split()) for line in done.stdout.splitlines())
    runs = {run_id for run_id, _ in ranks}
    assert len(runs) == launches
    assert ranks == Counter((run_id, rank) for run_id in runs for rank in ("0", "1"))
