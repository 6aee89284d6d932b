"""The lines on stderr at the start and the end of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import runwire


def test_init_and_finish_print_one_line_each(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Project, id, name and the command; status, points stored and points dropped."""
    with runwire.init("my project", run_id="r1", name="night") as run:
        run.log({"a": 1.0, "b": None})
    first, last = capsys.readouterr().err.splitlines()
    assert first == (
        "runwire: project my project, run r1 (night). Look at it with: runwire show r1 "
        "--project 'my project'"
    )
    assert last == (
        "runwire: run r1 finished: 0 of 1 points stored, 1 wait in the spool, "
        "1 dropped (1 not_a_number)."
    )


def test_resumed_run_prints_where_it_continues(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default project needs no option of `runwire show`."""
    for _ in range(2):
        with runwire.init(run_id="r1") as run:
            run.log({"a": 1.0}, 9)
    assert "run r1, continues at step 10. Look at it with: runwire show r1\n" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("how", ["quiet", "disabled"])
def test_quiet_and_disabled_runs_print_nothing(
    root: Path, how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RUNWIRE_QUIET switches both lines off."""
    monkeypatch.setenv("RUNWIRE_QUIET", "1" if how == "quiet" else "0")
    with runwire.init("p", mode=how if how == "disabled" else None):
        pass
    assert capsys.readouterr().err == ""


def test_only_rank_zero_prints_the_lines(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of a thousand ranks prints two lines."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    with runwire.init("p", run_id="r") as run:
        run.log({"a": 1.0})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("broken", ["missing", "closed"])
def test_stderr_that_cannot_be_written_is_harmless(
    root: Path, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Daemons close it, Windows services and notebooks replace it."""
    stream = (tmp_path / "err").open("w")
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream if broken == "closed" else None)
    with runwire.init("p") as run:
        run.log({"a": 1.0})
    monkeypatch.undo()
    assert run.flush(0).spooled == 1
