"""A data root for the tests of runs, and what their spool holds."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root, no agent."""
    monkeypatch.setenv("RUNWIRE_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("RUNWIRE_AGENT", "none")
    return tmp_path / "data"
