"""A data root without an agent, and runs in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import runwire
from runwire.run import Run


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNWIRE_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def run(root: Path) -> Iterator[Run]:
    """A run that raises what it would count."""
    with runwire.init("p", run_id="r", settings=runwire.Settings(strict=True)) as run:
        yield run
