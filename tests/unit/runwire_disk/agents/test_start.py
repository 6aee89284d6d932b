"""The starter of agent processes: import paths, log file, and errors of one kind."""

import json
import os
import sys
from pathlib import Path

import pytest

from runwire_disk.agents.start import LOG_BYTES_MAX, start_agent
from support.watched import wait_until

# Stands for an interpreter: writes down how it was called, and ends.
RECORDER = """#!{python} -S
import json, os, sys
facts = {{"argv": sys.argv[1:], "path": os.environ.get("PYTHONPATH", ""), "cwd": os.getcwd()}}
with open({out!r} + ".new", "w") as file:
    json.dump(facts, file)
os.rename({out!r} + ".new", {out!r})
print("started")
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a started interpreter writes."""
    out = tmp_path / "started.json"
    recorder = tmp_path / "python"
    recorder.write_text(RECORDER.format(python=sys.executable, out=str(out)))
    recorder.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(recorder))
    return out


def test_agent_is_started_with_every_source_root_on_its_path(tmp_path: Path, started: Path) -> None:
    """Packages of agent, disk, store and schemas, after a PYTHONPATH that is set already."""
    start_agent(tmp_path, {"PYTHONPATH": "/first"}, idle_s=3.0, wait_s=2.0)
    wait_until(started.exists)
    facts = json.loads(started.read_text())
    assert facts["argv"] == [
        *("-m", "runwire_agent", "--dir", str(tmp_path)),
        *("--exit-when-idle-s", "3", "--wait-s", "2"),
    ]
    assert facts["cwd"] == "/"
    first, *roots = facts["path"].split(os.pathsep)
    assert first == "/first"
    for package in ("runwire_agent", "runwire_disk", "runwire_store", "runwire_schemas"):
        assert any((Path(root) / package).is_dir() for root in roots)
    assert len(roots) == len(set(roots))


def test_output_of_the_agent_goes_to_a_log_of_bounded_size(tmp_path: Path, started: Path) -> None:
    """A log above the limit becomes the one old log."""
    log = tmp_path / "agents" / "agent.log"
    log.parent.mkdir()
    log.write_bytes(b"x" * (LOG_BYTES_MAX + 1))
    start_agent(tmp_path, {})
    wait_until(lambda: log.exists() and log.read_text() == "started\n")
    assert log.with_suffix(".log.1").stat().st_size == LOG_BYTES_MAX + 1


def test_a_start_that_is_impossible_is_an_os_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers catch one type: an embedded interpreter without executable, a file as data root."""
    (tmp_path / "agents").write_text("a file")
    with pytest.raises(OSError, match="agents"):
        start_agent(tmp_path, {})
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(ChildProcessError, match="executable"):
        start_agent(tmp_path, {})


@pytest.mark.parametrize("mark", ["PyInstaller", "Nuitka", "host"])
def test_program_that_is_no_interpreter_does_not_start_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    """A frozen program would run as another trainer; the error says what to do instead."""
    recorder = tmp_path / ("program" if mark == "host" else "python")
    recorder.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    recorder.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(recorder))
    if mark == "PyInstaller":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    if mark == "Nuitka":
        monkeypatch.setattr(sys.modules["__main__"], "__compiled__", object(), raising=False)
    with pytest.raises(ChildProcessError, match="RUNWIRE_AGENT=thread"):
        start_agent(tmp_path, {})
    assert not (tmp_path / "agents").exists()
