"""Every public call with every odd value in each argument: a sentence is all it costs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faults import results
from support.odd_calls import OBJECT_CALLS, ODD, Trial, functions

LONG = os.environ.get("RUNWIRE_FAULTS") == "long"
BEGIN = [
    "## Odd arguments",
    "",
    "`tests/support/odd_calls.py` calls every public function with odd values, one argument at a",
    f"time: {', '.join(sorted(ODD))}.",
    "Nothing raises (the calls whose result is needed raise what they document), the rest of each",
    "call and the other records are in the spool, a sentence names argument and call, and the run",
    "ends as finished. Strict, a call may raise and the rest holds. Written by:",
    "",
    "```",
    "RUNWIRE_FAULTS=long RUNWIRE_FAULTS_REPORT=1 python -m pytest -k odd_argument tests/faults",
    "```",
    "",
    "| call | odd calls | **wrong** |",
    "|---|---:|---:|",
]
_rows: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def _report() -> object:
    """Write the section of the README from a long run that was asked to."""
    yield
    if (
        LONG
        and os.environ.get(results.VARIABLE)
        and len(_rows) == len(functions()) + len(OBJECT_CALLS)
    ):
        text = "\n".join([*BEGIN, *sorted(_rows), ""])
        results.replace_part("odd arguments", text)


@pytest.mark.swallows
@pytest.mark.skipif(not LONG, reason="RUNWIRE_FAULTS=long runs it; tests/unit has the short form")
@pytest.mark.parametrize("name", sorted(functions()))
def test_every_odd_argument_costs_a_sentence_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, seed: int
) -> None:
    """All odd values in every argument, lenient and strict."""
    monkeypatch.setenv("RUNWIRE_CAPTURE_GIT", "0")
    monkeypatch.chdir(tmp_path)
    tried, findings = 0, []
    for strict in (False, True):
        monkeypatch.setenv("RUNWIRE_DIR", str(tmp_path / f"data-{strict}"))
        trial = Trial(name, tmp_path, seed, strict=strict)
        findings += trial.run()
        tried += trial.tried
    _rows.append(f"| `{name}` | {tried} | {len(findings)} |")
    assert findings == []


@pytest.mark.swallows
@pytest.mark.skipif(not LONG, reason="RUNWIRE_FAULTS=long runs it; tests/unit has the short form")
@pytest.mark.parametrize("name", sorted(OBJECT_CALLS))
def test_every_odd_argument_of_objects_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, seed: int
) -> None:
    """All odd values in config, summary, artifacts and histograms."""
    monkeypatch.setenv("RUNWIRE_CAPTURE_GIT", "0")
    monkeypatch.setenv("RUNWIRE_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    trial = Trial(name, tmp_path, seed)
    findings = trial.run_objects()
    _rows.append(f"| {name} | {len(ODD)} | {len(findings)} |")
    assert findings == []
