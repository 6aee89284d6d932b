"""A data root without an agent, and runs in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import runwire
from runwire.run import Run


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNWIRE_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def start(root: Path) -> Iterator[Callable[..., Run]]:
    """Starts the run "r", each time as another attempt, strict unless said otherwise."""
    runs: list[Run] = []

    def attempt(**arguments: object) -> Run:
        settings = runwire.Settings(**{"strict": True, **arguments.pop("settings", {})})
        runs.append(runwire.init("p", settings=settings, **{"run_id": "r", **arguments}))
        return runs[-1]

    yield attempt
    for run in runs:
        run.finish()


@pytest.fixture(autouse=True)
def _generators(seed: int) -> None:
    """Every test starts from the session's seed."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    try:
        import torch
    except ImportError:
        return
    torch.manual_seed(seed)
