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
    monkeypatch.setenv("RUNWIRE_CAPTURE_GIT", "0")  # of no interest here, and slow
    return tmp_path / "data"


@pytest.fixture
def run(root: Path) -> Iterator[Run]:
    """A run that raises what it would count."""
    with runwire.init("p", settings=runwire.Settings(strict=True)) as run:
        yield run


@pytest.fixture
def lenient(root: Path) -> Iterator[Run]:
    """A run as users have it."""
    with runwire.init("p") as run:
        yield run
